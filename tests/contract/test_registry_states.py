"""Any calls of any methods, one after the other, at the same time, and cut off: the model explains
every answer.

`tests/registry_model.py` is the model. On PostgreSQL two control planes share the database; on
SQLite there is one, as a second could not open the file. `docs/registry-tests.md` says how to run
more, and shows what breaking it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import itertools
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from broadsheet.v1 import api_key_pb2, audit_pb2, change_pb2, diff_pb2, route_pb2, status_pb2
from broadsheet.v1 import registry_service_pb2 as pb
from controlplane import errors, principal
from controlplane.catalog import domain, rollout
from controlplane.store.store import Store
from controlplane.upkeep import rollouts
from protocol.catalog_digest import CatalogDigest, blob_digest
from tests import history
from tests import registry_model as model
from tests.adapter_directories import write_adapter
from tests.inline_sqlite import inline_sqlite
from tests.postgres_server import PostgresServer
from tests.registry_calls import Caller
from tests.registry_faults import Died, Fault, Faults, Place, Plane
from tests.registry_model import Content, Registry
from tests.registry_world import NO_CONTEXT, START, World

EXAMPLES = {"sqlite": 1600, "postgres": 400}
"""By database."""

STEPS = 10
"""Of one example. Some of them are up to four calls."""

# Few names, so that calls meet: in ids, in served names, and in names that an adapter gets by
# default.
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


_REGISTER_MODEL = st.builds(
    model.RegisterModel,
    name=MODELS,
    served_name=SERVED_NAMES,
    team=st.sampled_from(["", "red"]),
    canary=st.booleans(),
    content=CONTENTS,
    must_create=st.sampled_from([False, False, True]),
)
_REGISTER_ADAPTER = st.builds(
    model.RegisterAdapter,
    name=ADAPTERS,
    served_name=SERVED_NAMES,
    content=CONTENTS,
    must_create=st.sampled_from([False, False, True]),
)
_SET_ROUTE = st.builds(
    model.SetRoute,
    name=ROUTES,
    served_name=SERVED_NAMES,
    targets=st.lists(REFERENCES, min_size=1, max_size=2, unique=True).map(tuple),
    fallbacks=st.lists(REFERENCES, max_size=1).map(tuple),
)
CALLS: st.SearchStrategy[model.Call] = st.one_of(
    _REGISTER_MODEL,
    _REGISTER_MODEL,
    _REGISTER_MODEL,
    st.builds(
        model.UpdateModel,
        name=MODELS,
        served_name=_maybe(SERVED_NAMES),
        team=_maybe(st.just("blue")),
        weights=_maybe(st.integers(0, 1)),
        text=st.sampled_from(["", "new"]),
    ),
    st.builds(model.RollbackModel, name=MODELS, number=NUMBERS),
    st.builds(model.DeleteModel, name=MODELS, force=st.booleans()),
    st.builds(model.UndeleteModel, name=MODELS),
    st.builds(model.ControlRollout, name=MODELS, action=st.sampled_from(["PAUSE", "RESUME", "ABORT"])),
    st.builds(model.WarmModel, name=MODELS, ends=st.booleans()),
    _REGISTER_ADAPTER,
    _REGISTER_ADAPTER,
    st.builds(model.UpdateAdapter, name=ADAPTERS, served_name=_maybe(SERVED_NAMES), text=st.sampled_from(["", "new"])),
    st.builds(model.RollbackAdapter, name=ADAPTERS, number=NUMBERS),
    st.builds(model.DeleteAdapter, name=ADAPTERS, force=st.booleans()),
    st.builds(model.UndeleteAdapter, name=ADAPTERS),
    _SET_ROUTE,
    _SET_ROUTE,
    st.builds(model.DeleteRoute, name=ROUTES),
    st.builds(model.CreateApiKey, name=API_KEYS),
    st.builds(model.RevokeApiKey, name=API_KEYS),
    st.builds(
        model.RollbackCatalog, to_revision=st.integers(0, 12), expected_revision=st.sampled_from([None, None, 3, 6])
    ),
)


_UNAVAILABLE = model.Refusal("Unavailable", "STORE_UNAVAILABLE")


class EtagUse(enum.Enum):
    """Which etag comes with a call that takes one."""

    NONE = enum.auto()
    CURRENT = enum.auto()
    """That of the resource as it is when the call is sent."""
    FORMER = enum.auto()
    """One that the resource had before, or never had."""


class _Reading(enum.Enum):
    """What is read."""

    RESOURCES = enum.auto()
    LISTS = enum.auto()
    REVISIONS = enum.auto()
    SNAPSHOTS = enum.auto()
    DIFF = enum.auto()
    HISTORY = enum.auto()


_AT_THE_END = (_Reading.LISTS, _Reading.SNAPSHOTS, _Reading.HISTORY)
"""Read after every example."""


@dataclasses.dataclass(frozen=True)
class Sent:
    """A call and how it is sent."""

    call: model.Call
    etag: EtagUse
    has_id: bool
    plane: int
    """By which control plane, counted round."""


def _sent(calls: st.SearchStrategy[model.Call], *, has_id: bool | None = None) -> st.SearchStrategy[Sent]:
    return st.builds(
        Sent,
        call=calls,
        etag=st.sampled_from([EtagUse.NONE, EtagUse.NONE, EtagUse.CURRENT, EtagUse.FORMER]),
        has_id=st.booleans() if has_id is None else st.just(has_id),
        plane=st.integers(0, 1),
    )


# Calls of one resource meet more often than calls of any.
MEETING = st.one_of(
    st.lists(_sent(CALLS), min_size=2, max_size=4),
    st.lists(_sent(_REGISTER_MODEL), min_size=2, max_size=4),
)


class Registries:
    """What the examples of one test share: control planes on one database, and an event loop."""

    def __init__(self, url: str, directory: Path) -> None:
        self.directory = directory
        self.runner = asyncio.Runner()
        self.faults = Faults()
        self.published: list[int] = []
        ticks = itertools.count()

        def on_commit(head: domain.Head) -> None:
            self.faults.committed()
            self.published.append(head.position.revision)

        def clock() -> datetime:
            return START + timedelta(seconds=next(ticks))

        self.planes = [Plane(url, directory, clock=clock, on_commit=on_commit) for _ in range(2)]
        if self.planes[0].is_sqlite:
            del self.planes[1:]

    def open(self, url: str) -> None:
        async def migrate() -> None:
            async with Store.open(url):
                pass

        self.runner.run(migrate())
        for plane in self.planes:
            self.runner.run(plane.open())
            self.runner.run(plane.prepare_faults())

    def close(self) -> None:
        for plane in self.planes:
            self.runner.run(plane.close())
        self.runner.close()


class RegistryMachine(RuleBasedStateMachine):
    """A registry beside the model of it."""

    def __init__(self, shared: Registries) -> None:
        super().__init__()
        self.run = shared.runner.run
        self.planes = shared.planes
        self.faults = shared.faults
        self.published = shared.published
        self.published.clear()
        self.run(self.planes[0].empty())
        self.registry = Registry()
        self.etags: dict[model.Tag, str] = {}
        self.digests: dict[tuple[str, model.Entry], bytes] = {}
        self.caller = Caller(self.etags, shared.directory)
        self.tags: dict[str, list[model.Tag]] = {}
        self.ids = itertools.count(1)
        self.with_id: list[tuple[model.Call, bytes]] = []
        self.writes: list[history.Write] = []
        self.began_s: dict[str, float] = {}
        self.unpublished: set[int] = set()

    # --- rules

    @rule(sent=_sent(CALLS), validate_only=st.sampled_from([False, False, False, True]))
    def call(self, sent: Sent, validate_only: bool) -> None:
        """One call, alone."""
        call = self._prepared(sent, validate_only=validate_only)
        registry, expected = self.registry.after(call)
        outcome = self.run(self._outcome(self._world(sent), call))
        assert outcome == expected
        self._become(registry)

    @rule(sents=MEETING, twice=st.booleans(), seed=st.integers(0, 999))
    def calls_at_the_same_time(self, sents: list[Sent], twice: bool, seed: int) -> None:
        """Several calls at the same time; perhaps the first of them twice, as by a caller who lost
        patience."""
        calls = [(self._world(sent), self._prepared(sent)) for sent in sents]
        if twice:
            calls.append((self._world(dataclasses.replace(sents[0], plane=sents[0].plane + 1)), calls[0][1]))

        async def all_of_them() -> Sequence[model.Outcome]:
            # All of them end here, also when one goes wrong: none may run on into the next example.
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._outcome(world, call)) for world, call in calls]
            return [task.result() for task in tasks]

        with self.faults.taking_turns(seed):
            outcomes = self.run(all_of_them())
        explained = list(zip((call for _, call in calls), outcomes, strict=True))
        registry = model.after_all(self.registry, explained)
        assert registry is not None, f"no order explains {explained}"
        self._become(registry)

    @rule(
        sent=_sent(CALLS, has_id=True),
        fault=st.sampled_from(Fault),
        statement=st.integers(1, 30),
        after_commit=st.booleans(),
    )
    def call_cut_off(self, sent: Sent, fault: Fault, statement: int, after_commit: bool) -> None:
        """A call that fails on its way is carried out wholly or not at all, and asked again it is
        carried out once."""
        call = self._prepared(sent)
        plane = self.planes[sent.plane % len(self.planes)]
        registry, expected = self.registry.after(call)
        outcome: model.Outcome = _UNAVAILABLE
        with (
            self.faults.armed(
                fault, statement, after_commit=after_commit, on_strike=lambda at: plane.strike(fault, at)
            ),
            contextlib.suppress(Died),
        ):
            outcome = self.run(self._outcome(plane.world, call))
        if self.faults.struck is None or outcome != _UNAVAILABLE:
            # It was not struck, or the control plane has tried again by itself.
            assert fault is Fault.FAILURE or self.faults.struck is None
            assert outcome == expected
            self._become(registry)
            return
        if fault is Fault.DEATH:
            self.run(plane.restart())
        if self.faults.struck is Place.AFTER_COMMIT:
            self.unpublished.add(registry.revision)
            self._become(registry)
        for plane in self.planes:
            assert self.run(plane.world.revision()) == self.registry.revision
        registry, expected = self.registry.after(call)
        assert self.run(self._outcome(self.planes[0].world, call)) == expected
        self._become(registry)

    @rule(which=st.integers(0, 9), plane=st.integers(0, 1))
    def call_again(self, which: int, plane: int) -> None:
        """A request that was carried out gets its first answer, byte for byte, whatever has
        happened since."""
        if not self.with_id:
            return
        call, first = self.with_id[which % len(self.with_id)]
        answer = self.run(self._send(self.planes[plane % len(self.planes)].world, call))
        assert answer.SerializeToString(deterministic=True) == first

    @rule(sent=_sent(CALLS), which=st.integers(0, 9))
    def other_call_under_an_id_that_was_used(self, sent: Sent, which: int) -> None:
        if not self.with_id:
            return
        request_id = self.with_id[which % len(self.with_id)][0].request_id
        call = dataclasses.replace(self._prepared(sent), request_id=request_id)
        registry, expected = self.registry.after(call)
        outcome = self.run(self._outcome(self._world(sent), call))
        assert _without_key(outcome) == _without_key(expected)
        self._become(registry)

    @rule()
    def rollouts_advance(self) -> None:
        """Every data plane has reported every candidate healthy for long enough."""
        healthy = rollout.Observed(data_plane="dataPlanes/d", state=status_pb2.RESOURCE_STATE_READY)
        began_s = time.monotonic()

        published_before = len(self.published)

        async def carry_on() -> None:
            await rollouts.advance(
                self.planes[0].world.store,
                lambda name: [healthy],
                now=datetime(2030, 1, 1, tzinfo=UTC),
            )

        self.run(carry_on())
        ended_s = time.monotonic()
        for revision in self.published[published_before:]:
            value = _advanced_at(revision)
            self.writes.append(history.Write(value=value, began_s=began_s, ended_s=ended_s, revision=revision))
        self._become(self.registry.after_rollouts_advance())

    @rule(plane=st.integers(0, 1), what=st.sampled_from(_Reading), begin=st.integers(0, 12), end=st.integers(0, 12))
    def read(self, plane: int, what: _Reading, begin: int, end: int) -> None:
        """Whatever is asked of it, the registry answers what the model holds."""
        head = self.registry.revision
        world = self.planes[plane % len(self.planes)].world
        self.run(self._check(world, what, min(begin, head), min(end, head)))

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None:
            return
        head = self.registry.revision
        for plane, what in zip(itertools.cycle(self.planes), _AT_THE_END, strict=False):
            self.run(self._check(plane.world, what, head // 2, head))
        assert sorted(self.published) == sorted(set(range(1, head + 1)) - self.unpublished)

    # --- sending

    def _world(self, sent: Sent) -> World:
        return self.planes[sent.plane % len(self.planes)].world

    def _prepared(self, sent: Sent, *, validate_only: bool = False) -> model.Call:
        fields: dict[str, Any] = {"validate_only": validate_only}
        if sent.has_id:
            fields["request_id"] = f"00000000-0000-4000-8000-{next(self.ids):012d}"
        if hasattr(sent.call, "etag"):
            fields["etag"] = self._tag(sent.call, sent.etag)
        return dataclasses.replace(sent.call, **fields)

    def _tag(self, call: Any, use: EtagUse) -> model.Tag | None:
        if use is EtagUse.NONE:
            return None
        resource = self.registry.models.get(call.name) or self.registry.adapters.get(call.name)
        current = model.tag_of(resource) if resource is not None else None
        if use is EtagUse.CURRENT and current is not None:
            if current not in self.etags:
                self.run(self._get(self.planes[0].world, call.name))
            return current
        former = [tag for tag in self.etags if tag.name == call.name and tag != current]
        return former[-1] if former else model.Tag("", 0, "", 0)

    async def _outcome(self, world: World, call: model.Call) -> model.Outcome:
        try:
            return self.caller.answer(await self._send(world, call))
        except errors.DomainError as error:
            return model.Refusal(type(error).__name__, error.reason)

    async def _send(self, world: World, call: model.Call) -> Any:
        value = call.request_id or f"call {next(self.ids)}"
        began_s = self.began_s.setdefault(value, time.monotonic())
        with principal.called_from(principal.Origin(address="", request_id=value)):
            message: Any = await self.caller.send(world, call)
        if call.validate_only:
            return message
        self._learn(message)
        if call.request_id in {one.request_id for one, _ in self.with_id}:
            return message
        if call.request_id:
            kept = type(message)()
            kept.CopyFrom(message)
            if "key" in message.DESCRIPTOR.fields_by_name:
                kept.ClearField("key")
            self.with_id.append((call, kept.SerializeToString(deterministic=True)))
        self.writes.append(
            history.Write(value=value, began_s=began_s, ended_s=time.monotonic(), revision=message.catalog_revision)
        )
        return message

    def _learn(self, message: Any) -> None:
        """An etag is another one exactly when what it stands for is."""
        for field in ("model", "adapter"):
            if field in message.DESCRIPTOR.fields_by_name:
                resource = self.caller.resource(getattr(message, field))
                assert isinstance(resource, model.Model | model.Adapter)
                tag, etag = model.tag_of(resource), getattr(message, field).etag
                assert self.etags.setdefault(tag, etag) == etag
                assert [one for one, known in self.etags.items() if known == etag] == [tag]

    def _become(self, registry: Registry) -> None:
        self.registry = registry

    # --- reading

    async def _get(self, world: World, name: str) -> Any:
        handler: Any
        request: Any
        if name.startswith("routes/"):
            handler, request = world.registry.GetRoute, route_pb2.GetRouteRequest(name=name)
        elif name.startswith("apiKeys/"):
            handler, request = world.registry.GetApiKey, api_key_pb2.GetApiKeyRequest(name=name)
        elif "/adapters/" in name:
            handler, request = world.registry.GetAdapter, pb.GetAdapterRequest(name=name)
        else:
            handler, request = world.registry.GetModel, pb.GetModelRequest(name=name)
        message = await handler(request, NO_CONTEXT)
        self._learn(message)
        return self.caller.resource_in(message)

    async def _check(self, world: World, what: _Reading, begin: int, end: int) -> None:
        match what:
            case _Reading.RESOURCES:
                await self._check_resources(world)
            case _Reading.LISTS:
                await self._check_lists(world)
            case _Reading.REVISIONS:
                await self._check_revisions(world)
            case _Reading.SNAPSHOTS:
                for revision in {begin, end}:
                    await self._check_snapshot(world, revision)
            case _Reading.DIFF:
                await self._check_diff(world, begin, end)
            case _Reading.HISTORY:
                await self._check_history(world)

    async def _check_resources(self, world: World) -> None:
        registry = self.registry
        for resources in (registry.models, registry.adapters, registry.routes, registry.api_keys):
            for name, resource in resources.items():
                assert await self._get(world, name) == resource

    async def _check_lists(self, world: World) -> None:
        registry = self.registry
        lists: Sequence[tuple[Any, Any, str, Mapping[str, Any]]] = (
            (world.registry.ListModels, pb.ListModelsRequest(show_deleted=True), "models", registry.models),
            (
                world.registry.ListAdapters,
                pb.ListAdaptersRequest(parent="models/-", show_deleted=True),
                "adapters",
                registry.adapters,
            ),
            (world.registry.ListRoutes, route_pb2.ListRoutesRequest(), "routes", registry.routes),
            (world.registry.ListApiKeys, api_key_pb2.ListApiKeysRequest(), "api_keys", registry.api_keys),
        )
        for handler, request, field, expected in lists:
            found = [self.caller.resource(one) for one in await _pages(handler, request, field)]
            assert found == [expected[name] for name in sorted(expected)]

    async def _check_revisions(self, world: World) -> None:
        for name, contents in self.registry.contents.items():
            handler, request = (
                (world.registry.ListAdapterRevisions, pb.ListAdapterRevisionsRequest(parent=name))
                if "/adapters/" in name
                else (world.registry.ListModelRevisions, pb.ListModelRevisionsRequest(parent=name))
            )
            revisions = await _pages(handler, request, "revisions")
            assert [(one.number, self.caller.content(one)) for one in reversed(revisions)] == list(
                enumerate(contents, 1)
            )

    async def _check_snapshot(self, world: World, revision: int) -> None:
        expected = self.registry.snapshots[revision]
        entries = await world.entries(revision)
        digest = CatalogDigest()
        assert [entry.name for entry in entries] == sorted(expected)
        for entry in entries:
            found = self.caller.entry(entry)
            assert found == expected[entry.name][: len(found)]
            # The bytes are those of the first time that the model said this.
            key = (entry.name, expected[entry.name])
            assert self.digests.setdefault(key, entry.digest) == entry.digest == blob_digest(entry.blob)
            digest = digest.added(entry.name, entry.type, entry.digest)
        assert (await world.store.revisions.position_at(revision)).digest == digest.root()

    async def _check_diff(self, world: World, begin: int, end: int) -> None:
        request = diff_pb2.DiffSnapshotsRequest(from_revision=begin, to_revision=end)
        changes = await _pages(world.snapshots.DiffSnapshots, request, "changes")
        old, new = self.registry.snapshots[begin], self.registry.snapshots[end]
        kind = change_pb2.ResourceChange
        expected = {
            name: kind.KIND_ADDED if name not in old else kind.KIND_REMOVED if name not in new else kind.KIND_CHANGED
            for name in {*old, *new}
            if old.get(name) != new.get(name)
        }
        assert [(change.name, change.kind) for change in changes] == sorted(expected.items())

    async def _check_history(self, world: World) -> None:
        """One audit event for each revision, without gaps, in an order in which every writer saw
        its own come true."""
        events = await _pages(world.registry.ListAuditEvents, audit_pb2.ListAuditEventsRequest(), "events", size=10)
        assert [model.Event(one.catalog_revision, one.method, one.resource) for one in reversed(events)] == list(
            self.registry.events
        )
        for one in events:
            before, after = self.registry.snapshots[one.catalog_revision - 1 : one.catalog_revision + 1]
            differing = {name for name in {*before, *after} if before.get(name) != after.get(name)}
            assert differing <= {change.name for change in one.changes}
        found = {one.catalog_revision: one.request_id or _advanced_at(one.catalog_revision) for one in events}
        writes = [write for write in self.writes if write.value in found.values()]
        assert history.violations(writes, found, self.registry.revision) == []


def _advanced_at(revision: int) -> str:
    """What a write of the control plane itself is called: no caller gave it a name."""
    return f"advanced at {revision}"


def _without_key(outcome: model.Outcome) -> model.Outcome:
    return dataclasses.replace(outcome, shows_key=False) if isinstance(outcome, model.Answer) else outcome


async def _pages(handler: Any, request: Any, field: str, *, size: int = 3) -> list[Any]:
    """All items of a list, read in pages."""
    items: list[Any] = []
    request.page_size = size
    while True:
        page = await handler(request, NO_CONTEXT)
        items += getattr(page, field)
        if not page.next_page_token:
            return items
        request.page_token = page.next_page_token


@pytest.fixture
def directory_in_memory(tmp_path: Path) -> Iterator[Path]:
    """Where waiting for the disk costs nothing, if there is such a place: no test pulls the plug of
    this machine."""
    memory = Path("/dev/shm")  # noqa: S108  # a directory of our own below it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as directory:
        yield Path(directory)


@pytest.fixture(params=["sqlite", "postgres"])
def registries(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Registries]:
    """An empty registry on each database."""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = server.new_database()
    else:
        url = f"sqlite+aiosqlite:///{request.getfixturevalue('directory_in_memory')}/registry.db"
    for number in range(2):
        write_adapter(tmp_path / f"lora{number}", fill=bytes([number]))
    shared = Registries(url, tmp_path)
    # A line of the log for each call takes a tenth of the time, and nobody reads a million of them.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with inline_sqlite(), shared.faults.listening():
        shared.open(url)
        yield shared
        shared.close()
    structlog.reset_defaults()


@pytest.mark.timeout(1800)
def test_the_model_explains_every_answer(registries: Registries) -> None:
    class Machine(RegistryMachine):
        def __init__(self) -> None:
            super().__init__(registries)

    database = "sqlite" if registries.planes[0].is_sqlite else "postgres"
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(os.environ.get("BROADSHEET_TEST_EXAMPLES", EXAMPLES[database])),
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=not os.environ.get("BROADSHEET_TEST_RANDOM"),
            # One at a time: shrinking takes longer than all examples.
            report_multiple_bugs=False,
        ),
    )
