"""Random small catalogs and changes of them, with faults of every kind, for tests by Hypothesis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

from hypothesis import strategies as st

from broadsheet.v1 import adapter_pb2, api_key_pb2, snapshot_pb2
from dataplane.snapshot.snapshot import Message, RawEntry
from protocol.catalog_digest import blob_digest
from tests import views
from tests.raw import adapter, model, raw

_FORBIDDEN = "s3://elsewhere/x"


def _models(model_id: str) -> Iterator[Message]:
    yield model(model_id)
    yield model(model_id, number=2)
    yield model(model_id, uri=_FORBIDDEN)
    other_name = model(model_id)
    other_name.served_name = "chat"
    yield other_name
    # 100 % is not a rollout: that candidate is quarantined, and its model is not.
    for number, percent, warm in ((2, 10, True), (2, 100, False), (3, 10, False)):
        yield views.with_candidate(model(model_id), model(model_id, number=number), percent, warm=warm)
    warmed = model(model_id)
    warmed.revision.spec.scaling.min_replicas = 1
    yield warmed


def _adapters(model_id: str, adapter_id: str) -> Iterator[Message]:
    yield adapter(model_id, adapter_id)
    yield adapter(model_id, adapter_id, uri="hf://x/y")
    yield adapter(model_id, adapter_id, uri=_FORBIDDEN)
    foreign = adapter(model_id, adapter_id)
    foreign.model = "models/b"
    yield foreign
    taken = adapter(model_id, adapter_id)
    taken.served_name = "chat"
    yield taken


def _adapter_pin(owner: str, number: int, uri: str) -> snapshot_pb2.AdapterRevisionEntry:
    revision = adapter_pb2.AdapterRevision(number=number)
    revision.source.uri = uri
    return snapshot_pb2.AdapterRevisionEntry(
        name=f"{owner}/revisions/1", adapter=owner, adapter_uid="uid", revision=revision
    )


def _model_pins(number: int) -> Iterator[Message]:
    yield views.pinned(model("a", number=number))
    yield views.pinned(model("a", number=number, uri=_FORBIDDEN))
    elsewhere = views.pinned(model("a", number=number))
    elsewhere.model = "models/b"
    yield elsewhere


def _routes(route_id: str) -> Iterator[Message]:
    yield views.route(route_id, {"models/a": 1})
    yield views.route(route_id, {"models/b": 1, "models/a/adapters/x": 2}, served_name="chat")
    yield views.route(route_id, {"models/a/revisions/2": 1}, fallbacks={"models/b": ["UNAVAILABLE"]})
    yield views.route(route_id, {"models/a/adapters/x/revisions/1": 1}, served_name="a")


def _keys(key_id: str) -> Iterator[Message]:
    yield views.api_key(key_id, f"bs-{key_id}")
    yield views.api_key(key_id, "bs-shared", "a*")
    yield views.api_key(key_id, "", revoked=True)
    broken: api_key_pb2.ApiKeyEntry = views.api_key(key_id, "bs-k", "[a-z]")
    yield broken


def _odd(name: str) -> Iterator[RawEntry]:
    """Entries that cannot be decoded, have another name or an odd type."""
    yield RawEntry(name=name, type="broadsheet.v1.ModelEntry", digest=blob_digest(b"\xff"), blob=b"\xff")
    yield raw(model("a"), name=name, type_="broadsheet.v9.Newer")
    yield raw(model("odd"), name=name)
    strange = adapter("a", "x")
    strange.name = name
    strange.served_name, strange.model = f"odd {name}", "models/b"
    yield raw(strange)


def _slots() -> Mapping[str, tuple[RawEntry, ...]]:
    messages = chain(
        _models("a"),
        _models("b"),
        *(_adapters(model_id, adapter_id) for model_id in "ab" for adapter_id in "xy"),
        (_adapter_pin("models/a/adapters/x", 1, uri) for uri in ("hf://a/b", _FORBIDDEN)),
        (_adapter_pin("models/a/adapters/gone", 1, "hf://a/b"),),
        *(_model_pins(number) for number in (2, 4)),
        *(_routes(route_id) for route_id in ("r", "s")),
        *(_keys(key_id) for key_id in ("k", "l")),
    )
    slots: dict[str, list[RawEntry]] = {}
    for entry in (*map(raw, messages), *chain.from_iterable(map(_odd, ("models/a", "models/a/revisions/2", "zz")))):
        slots.setdefault(entry.name, []).append(entry)
    return {name: tuple(entries) for name, entries in slots.items()}


SLOTS = _slots()
"""By name: the entries that may be there."""

Catalog = Mapping[str, RawEntry]

CATALOGS: st.SearchStrategy[Catalog] = st.dictionaries(st.sampled_from(sorted(SLOTS)), st.integers(0, 9)).map(
    lambda picked: {name: SLOTS[name][which % len(SLOTS[name])] for name, which in picked.items()}
)
"""Catalogs and what changes set. Small numbers come first: the entries without faults."""

REMOVALS = st.sets(st.sampled_from(sorted(SLOTS)), max_size=4)


def ordered(catalog: Catalog) -> tuple[RawEntry, ...]:
    """The entries of a catalog, ordered by name."""
    return tuple(catalog[name] for name in sorted(catalog))


def repaired(catalog: Catalog, is_accepted: Callable[[tuple[RawEntry, ...]], bool]) -> Catalog:
    """A part of a catalog that is accepted: entry after entry, those that do not fit left out."""
    kept: dict[str, RawEntry] = {}
    for name in sorted(catalog):
        if is_accepted(ordered({**kept, name: catalog[name]})):
            kept[name] = catalog[name]
    return kept
