"""The list after a change is that of the new snapshot, and little of it is encoded again."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.ingress.models.depending import changed_served_names
from dataplane.ingress.models.list import ModelsList
from dataplane.snapshot.accept import accept
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.change import Change, changed
from dataplane.snapshot.changes.accept_change import accept_change
from dataplane.snapshot.snapshot import Message, Snapshot
from tests import views
from tests.catalog_changes import CATALOGS, REMOVALS, Catalog, ordered, repaired
from tests.raw import POLICY, accepted, adapter, model, position, raws

KEY = ApiKey.of(views.api_key("k", "bs-k", "a*"))


def step(held: Snapshot, *messages: Message, removed: frozenset[str] = frozenset()) -> Snapshot:
    change = Change(base=held.position, entries=raws(*messages), removed=removed)
    at = position(changed(held.entries, change), held.position.revision + 1)
    outcome = accept_change(at, change, held, POLICY)
    assert isinstance(outcome, Snapshot), outcome
    return outcome


@settings(deadline=None, max_examples=100)
@given(first=CATALOGS, steps=st.lists(st.tuples(CATALOGS, REMOVALS), max_size=4))
def test_the_list_after_changes_is_that_of_the_snapshot(first: Catalog, steps: list[tuple[Catalog, set[str]]]) -> None:
    def is_accepted(entries: tuple[object, ...]) -> bool:
        return isinstance(accept(position(entries), entries, held=None, policy=POLICY), Snapshot)  # type: ignore[arg-type]

    async def listed() -> None:
        models = ModelsList()
        held = accepted(ordered(repaired(first, is_accepted)))
        for values, removed in [({}, set()), *steps]:
            change = Change(base=held.position, entries=ordered(values), removed=frozenset(removed))
            entries = changed(held.entries, change)
            outcome = accept_change(position(entries, held.position.revision + 1), change, held, POLICY)
            held = outcome if isinstance(outcome, Snapshot) else held
            for key in (None, KEY):
                assert await models.body(views.view(held), key) == await ModelsList().body(views.view(held), key)

    asyncio.run(listed())


def test_only_what_depends_on_a_change_is_encoded_again() -> None:
    chat = views.route("r", {"models/a/adapters/x": 1, "models/b": 1}, served_name="chat")
    held = accepted(raws(model("a"), adapter("a", "x"), adapter("a", "y"), model("b"), adapter("b", "x"), chat))
    assert changed_served_names(held, step(held, adapter("b", "x", uri="hf://a/b"))) == ["b:x"]
    assert changed_served_names(held, step(held, adapter("b", "z"))) == ["b:z"]
    assert changed_served_names(held, step(held, removed=frozenset({"models/a/adapters/y"}))) == ["a:y"]
    assert changed_served_names(held, step(held, model("b", number=2))) == ["b", "b:x", "chat"]
    assert changed_served_names(held, step(held, model("a", number=2))) == ["a", "a:x", "a:y", "chat"]
    assert changed_served_names(held, step(held, adapter("a", "x", uri="s3://x/y"))) == ["a:x", "chat"]
    assert changed_served_names(held, held) == []
