"""Random calls, one by one, at the same time, and cut off: the model explains every answer.

`tests/registry_model/` is the model. On PostgreSQL two control planes share the database. On SQLite
there is one, because a second one cannot open the file. `docs/registry-tests.md` tells how to run
more examples, and what the test finds when the registry is broken.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from broadsheet.v1 import status_pb2
from controlplane.catalog import domain, rollout
from controlplane.store.store import Store
from controlplane.upkeep import rollouts
from tests import history
from tests.adapter_directories import write_adapter
from tests.inline_sqlite import inline_sqlite
from tests.postgres_server import PostgresServer
from tests.registry_checks import Checks, Reading, advanced_at
from tests.registry_client import RecordingClient
from tests.registry_faults import Died, Fault, Faults, Place, Plane
from tests.registry_model import calls, values
from tests.registry_model.after import after, after_all, after_rollouts_advance
from tests.registry_model.state import Registry
from tests.registry_strategies import CALLS, MEETING, EtagUse, Sent, sent_calls
from tests.registry_world import START, World

EXAMPLES = {"sqlite": 500, "postgres": 150}
"""By database, in `make test`."""

EXAMPLES_ASKED = os.environ.get("BROADSHEET_TEST_EXAMPLES", "")
"""On each database, from `make test-states`. Empty: `EXAMPLES`."""

STEPS = 10
"""Steps of one example. A step may have up to four calls."""

_UNAVAILABLE = calls.Refusal("Unavailable", "STORE_UNAVAILABLE")


_AT_THE_END = (Reading.LISTS, Reading.SNAPSHOTS, Reading.HISTORY)
"""Read after every example."""


class Registries:
    """Control planes on one database, and an event loop, shared by all examples of a test."""

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
    """Compares a registry with the model of it."""

    def __init__(self, shared: Registries) -> None:
        super().__init__()
        self.run = shared.runner.run
        self.planes = shared.planes
        self.faults = shared.faults
        self.published = shared.published
        self.published.clear()
        self.run(self.planes[0].empty())
        self.registry = Registry()
        self.client = RecordingClient(shared.directory)
        self.checks = Checks(self.client)
        self.unpublished: set[int] = set()

    # --- rules

    @rule(sent=sent_calls(CALLS), validate_only=st.sampled_from([False, False, False, True]))
    def call(self, sent: Sent, validate_only: bool) -> None:
        """A single call."""
        call = self._prepared(sent, validate_only=validate_only)
        registry, expected = after(self.registry, call)
        outcome = self.run(self.client.outcome(self._world(sent), call))
        assert outcome == expected
        self.registry = registry

    @rule(sents=MEETING, twice=st.booleans(), seed=st.integers(0, 999))
    def calls_at_the_same_time(self, sents: list[Sent], twice: bool, seed: int) -> None:
        """Several calls at the same time; perhaps the first of them twice, as a retry."""
        prepared = [(self._world(sent), self._prepared(sent)) for sent in sents]
        if twice:
            prepared.append((self._world(dataclasses.replace(sents[0], plane=sents[0].plane + 1)), prepared[0][1]))

        async def all_of_them() -> Sequence[calls.Outcome]:
            # All calls end here, even if one fails: none may run on into the next example.
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.client.outcome(world, call)) for world, call in prepared]
            return [task.result() for task in tasks]

        with self.faults.taking_turns(seed):
            outcomes = self.run(all_of_them())
        explained = list(zip((call for _, call in prepared), outcomes, strict=True))
        registry = after_all(self.registry, explained)
        assert registry is not None, f"no order explains {explained}"
        self.registry = registry

    @rule(
        sent=sent_calls(CALLS, has_id=True),
        fault=st.sampled_from(Fault),
        statement=st.integers(1, 30),
        after_commit=st.booleans(),
    )
    def call_cut_off(self, sent: Sent, fault: Fault, statement: int, after_commit: bool) -> None:
        """A call that fails half-way takes full effect or none, and a retry carries it out once."""
        call = self._prepared(sent)
        plane = self.planes[sent.plane % len(self.planes)]
        registry, expected = after(self.registry, call)
        outcome: calls.Outcome = _UNAVAILABLE
        with (
            self.faults.armed(
                fault, statement, after_commit=after_commit, on_strike=lambda at: plane.strike(fault, at)
            ),
            contextlib.suppress(Died),
        ):
            outcome = self.run(self.client.outcome(plane.world, call))
        if self.faults.struck is None or outcome != _UNAVAILABLE:
            # The fault did not occur, or the control plane has retried.
            assert fault is Fault.FAILURE or self.faults.struck is None
            assert outcome == expected
            self.registry = registry
            return
        if fault is Fault.DEATH:
            self.run(plane.restart())
        if self.faults.struck is Place.AFTER_COMMIT:
            self.unpublished.add(registry.revision)
            self.registry = registry
        for plane in self.planes:
            assert self.run(plane.world.revision()) == self.registry.revision
        registry, expected = after(self.registry, call)
        assert self.run(self.client.outcome(self.planes[0].world, call)) == expected
        self.registry = registry

    @rule(which=st.integers(0, 9), plane=st.integers(0, 1))
    def call_again(self, which: int, plane: int) -> None:
        """A repeated request gets its first answer, byte for byte, whatever has happened since."""
        if not self.client.with_id:
            return
        call, first = self.client.with_id[which % len(self.client.with_id)]
        answer = self.run(self.client.send(self.planes[plane % len(self.planes)].world, call))
        assert answer.SerializeToString(deterministic=True) == first

    @rule(sent=sent_calls(CALLS), which=st.integers(0, 9))
    def other_call_under_an_id_that_was_used(self, sent: Sent, which: int) -> None:
        if not self.client.with_id:
            return
        request_id = self.client.with_id[which % len(self.client.with_id)][0].request_id
        call = dataclasses.replace(self._prepared(sent), request_id=request_id)
        registry, expected = after(self.registry, call)
        outcome = self.run(self.client.outcome(self._world(sent), call))
        assert _without_key(outcome) == _without_key(expected)
        self.registry = registry

    @rule()
    def rollouts_advance(self) -> None:
        """All data planes have reported all candidates healthy for long enough."""
        healthy = rollout.Observed(data_plane="dataPlanes/d", state=status_pb2.RESOURCE_STATE_READY)
        began_s = time.monotonic()

        published_before = len(self.published)

        async def advance() -> None:
            await rollouts.advance(
                self.planes[0].world.store,
                lambda name: [healthy],
                now=datetime(2030, 1, 1, tzinfo=UTC),
            )

        self.run(advance())
        ended_s = time.monotonic()
        for revision in self.published[published_before:]:
            value = advanced_at(revision)
            self.client.writes.append(history.Write(value=value, began_s=began_s, ended_s=ended_s, revision=revision))
        self.registry = after_rollouts_advance(self.registry)

    @rule(plane=st.integers(0, 1), what=st.sampled_from(Reading), begin=st.integers(0, 12), end=st.integers(0, 12))
    def read(self, plane: int, what: Reading, begin: int, end: int) -> None:
        """The registry answers every read as the model does."""
        head = self.registry.revision
        world = self.planes[plane % len(self.planes)].world
        self.run(self.checks.check(world, self.registry, what, min(begin, head), min(end, head)))

    def teardown(self) -> None:
        if sys.exc_info()[0] is not None:
            return
        head = self.registry.revision
        for plane, what in zip(itertools.cycle(self.planes), _AT_THE_END, strict=False):
            self.run(self.checks.check(plane.world, self.registry, what, head // 2, head))
        assert sorted(self.published) == sorted(set(range(1, head + 1)) - self.unpublished)

    # --- sending

    def _world(self, sent: Sent) -> World:
        return self.planes[sent.plane % len(self.planes)].world

    def _prepared(self, sent: Sent, *, validate_only: bool = False) -> calls.Call:
        fields: dict[str, Any] = {"validate_only": validate_only}
        if sent.has_id:
            fields["request_id"] = f"00000000-0000-4000-8000-{next(self.client.ids):012d}"
        if hasattr(sent.call, "etag"):
            fields["etag"] = self._tag(sent.call, sent.etag)
        return dataclasses.replace(sent.call, **fields)

    def _tag(self, call: Any, use: EtagUse) -> values.Tag | None:
        if use is EtagUse.NONE:
            return None
        resource = self.registry.models.get(call.name) or self.registry.adapters.get(call.name)
        current = values.tag_of(resource) if resource is not None else None
        if use is EtagUse.CURRENT and current is not None:
            if current not in self.client.etags:
                self.run(self.client.get(self.planes[0].world, call.name))
            return current
        former = [tag for tag in self.client.etags if tag.name == call.name and tag != current]
        return former[-1] if former else values.Tag("", 0, "", 0)


def _without_key(outcome: calls.Outcome) -> calls.Outcome:
    return dataclasses.replace(outcome, shows_key=False) if isinstance(outcome, calls.Answer) else outcome


@pytest.fixture
def directory_in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, if there is one: no test needs data to survive the machine."""
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
    # Logging takes a tenth of the time.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with inline_sqlite(), shared.faults.listening():
        shared.open(url)
        yield shared
        shared.close()
    structlog.reset_defaults()


@pytest.mark.timeout(0 if EXAMPLES_ASKED else 900)
def test_the_model_explains_every_answer(registries: Registries) -> None:
    class Machine(RegistryMachine):
        def __init__(self) -> None:
            super().__init__(registries)

    database = "sqlite" if registries.planes[0].is_sqlite else "postgres"
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=int(EXAMPLES_ASKED or EXAMPLES[database]),
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=not os.environ.get("BROADSHEET_TEST_RANDOM"),
            # One bug at a time: shrinking takes longer than all examples.
            report_multiple_bugs=False,
        ),
    )
