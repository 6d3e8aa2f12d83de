"""Random calls of the registry's methods, for Hypothesis."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from hypothesis import strategies as st

from tests.registry_model import calls
from tests.registry_model.values import Content

# Few names, so that calls collide: in ids, in served names, and in the default names of adapters.
MODELS = st.sampled_from(["models/a", "models/b"])
ADAPTERS = st.sampled_from(["models/a/adapters/x", "models/b/adapters/x"])
ROUTES = st.sampled_from(["routes/r", "routes/a"])
API_KEYS = st.sampled_from(["apiKeys/j", "apiKeys/k"])
SERVED_NAMES = st.sampled_from(["", "", "a", "r", "a:x"])
CONTENTS = st.builds(Content, st.integers(0, 1), st.sampled_from(["", "new"]))
NUMBERS = st.integers(1, 4)
REFERENCES = st.sampled_from(
    ["models/a", "models/b", "models/a/adapters/x", "models/a/revisions/1", "models/b/adapters/x/revisions/1"]
)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


REGISTER_MODEL = st.builds(
    calls.RegisterModel,
    name=MODELS,
    served_name=SERVED_NAMES,
    team=st.sampled_from(["", "red"]),
    canary=st.booleans(),
    content=CONTENTS,
    must_create=st.sampled_from([False, False, True]),
)
REGISTER_ADAPTER = st.builds(
    calls.RegisterAdapter,
    name=ADAPTERS,
    served_name=SERVED_NAMES,
    content=CONTENTS,
    must_create=st.sampled_from([False, False, True]),
)
SET_ROUTE = st.builds(
    calls.SetRoute,
    name=ROUTES,
    served_name=SERVED_NAMES,
    targets=st.lists(REFERENCES, min_size=1, max_size=2, unique=True).map(tuple),
    fallbacks=st.lists(REFERENCES, max_size=1).map(tuple),
)
CALLS: st.SearchStrategy[calls.Call] = st.one_of(
    REGISTER_MODEL,
    REGISTER_MODEL,
    REGISTER_MODEL,
    st.builds(
        calls.UpdateModel,
        name=MODELS,
        served_name=_maybe(SERVED_NAMES),
        team=_maybe(st.just("blue")),
        weights=_maybe(st.integers(0, 1)),
        text=st.sampled_from(["", "new"]),
    ),
    st.builds(calls.RollbackModel, name=MODELS, number=NUMBERS),
    st.builds(calls.DeleteModel, name=MODELS, force=st.booleans()),
    st.builds(calls.UndeleteModel, name=MODELS),
    st.builds(calls.ControlRollout, name=MODELS, action=st.sampled_from(["PAUSE", "RESUME", "ABORT"])),
    st.builds(calls.WarmModel, name=MODELS, ends=st.booleans()),
    REGISTER_ADAPTER,
    REGISTER_ADAPTER,
    st.builds(calls.UpdateAdapter, name=ADAPTERS, served_name=_maybe(SERVED_NAMES), text=st.sampled_from(["", "new"])),
    st.builds(calls.RollbackAdapter, name=ADAPTERS, number=NUMBERS),
    st.builds(calls.DeleteAdapter, name=ADAPTERS, force=st.booleans()),
    st.builds(calls.UndeleteAdapter, name=ADAPTERS),
    SET_ROUTE,
    SET_ROUTE,
    st.builds(calls.DeleteRoute, name=ROUTES),
    st.builds(calls.CreateApiKey, name=API_KEYS),
    st.builds(calls.RevokeApiKey, name=API_KEYS),
    st.builds(
        calls.RollbackCatalog, to_revision=st.integers(0, 12), expected_revision=st.sampled_from([None, None, 3, 6])
    ),
)


class EtagUse(enum.Enum):
    """The etag of a call that takes one."""

    NONE = enum.auto()
    CURRENT = enum.auto()
    """The etag of the resource when the call is sent."""
    FORMER = enum.auto()
    """An etag that the resource had before, or never had."""


@dataclasses.dataclass(frozen=True)
class Sent:
    """A call and how it is sent."""

    call: calls.Call
    etag: EtagUse
    has_id: bool
    plane: int
    """Index of the control plane, modulo their number."""


def sent_calls(calls: st.SearchStrategy[calls.Call], *, has_id: bool | None = None) -> st.SearchStrategy[Sent]:
    return st.builds(
        Sent,
        call=calls,
        etag=st.sampled_from([EtagUse.NONE, EtagUse.NONE, EtagUse.CURRENT, EtagUse.FORMER]),
        has_id=st.booleans() if has_id is None else st.just(has_id),
        plane=st.integers(0, 1),
    )


# Calls for one resource collide more often than random calls.
MEETING = st.one_of(
    st.lists(sent_calls(CALLS), min_size=2, max_size=4),
    st.lists(sent_calls(REGISTER_MODEL), min_size=2, max_size=4),
)
