"""An agent and an ingress replica in one process, between which changes of a catalog go.

They are the real parts around a relay without Ray. Left out are the disk, Ray, and the network.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.agent.executor import Executor
from dataplane.agent.reconciler.actions import Deploy
from dataplane.agent.reconciler.planning import plan
from dataplane.agent.relayed_snapshot import SnapshotPublisher
from dataplane.agent.status import Statuses, draining_models, notable_statuses
from dataplane.ingress.relayed_view import WATCHED, RelayedView
from dataplane.ingress.view_holder import ViewHolder
from dataplane.relay.snapshots import read_snapshot
from dataplane.relay.topics import Key, Role, Topic
from dataplane.snapshot.accept import accept
from dataplane.snapshot.change import Change
from dataplane.snapshot.changes.accept_change import accept_change
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from dataplane.sync.resource_report import ResourceReport
from protocol.catalog_digest import CatalogDigest
from tests.ingress_app import ingress_app
from tests.raw import POLICY, STORE, adapter, model, raw, raws
from tests.unit.dataplane.agent.ledger.reporting import empty
from tests.unit.dataplane.agent.serve_world import ServeWorld
from tests.unit.dataplane.relay.relay_world import RelayWorld

MODELS = 10
_RULES = "rules"
_TEXT = "x" * 150
"""Makes an adapter's entry as large as a real one: with name, type and digest, 400 bytes."""


def changing_adapter(number: int, revision: int) -> snapshot_pb2.AdapterEntry:
    """An adapter as a catalog revision has left it."""
    entry = adapter(f"m{number % MODELS}", f"a{number}")
    entry.uid = f"{number:032x}"
    entry.revision.card.description = _TEXT
    entry.revision.catalog_revision = revision
    entry.revision.weights.digest = revision.to_bytes(32, "big")
    return entry


def catalog(count: int) -> tuple[RawEntry, ...]:
    """`MODELS` models and adapters of them, `count` in all."""
    models = [model(f"m{number}") for number in range(MODELS)]
    return raws(*models, *(changing_adapter(number, 1) for number in range(count - MODELS)))


def one_adapter_changes(held: Snapshot, picks: Sequence[int]) -> Iterator[tuple[Position, Change]]:
    """Changes of one adapter each, one after another.

    Args:
        held: Of `catalog`, where they begin.
        picks: The numbers of the adapters.
    """
    base, entries, digest = held.position, dict[str, RawEntry](), held.digest
    for number in picks:
        entry = raw(changing_adapter(number, base.revision + 1))
        before = entries.get(entry.name) or held.entries.get(entry.name)
        digest = _replaced(digest, before, entry)
        entries[entry.name] = entry
        position = Position(store_uid=STORE, revision=base.revision + 1, digest=digest.root())
        yield position, Change(base=base, entries=(entry,), removed=frozenset())
        base = position


def _replaced(digest: CatalogDigest, before: RawEntry | None, entry: RawEntry) -> CatalogDigest:
    if before is not None:
        digest = digest.removed(before.name, before.type, before.digest)
    return digest.added(entry.name, entry.type, entry.digest)


class AgentPart:
    """What the agent does with a snapshot, beside keeping it on disk."""

    def __init__(self, relays: RelayWorld) -> None:
        self._relay = relays.relay(Role.AGENT, "agent")
        self._publisher = SnapshotPublisher(self._relay, rules=_RULES)
        self._ledger = empty()
        self._executor = Executor(self._ledger, self._relay, ServeWorld(), clock=time.time)
        self._statuses = Statuses()
        self._report = ResourceReport()
        self.snapshot: Snapshot | None = None

    async def start(self, position: Position, entries: tuple[RawEntry, ...]) -> Snapshot:
        """Take over a whole snapshot. One model runs."""
        outcome = accept(position, entries, held=None, policy=POLICY)
        assert isinstance(outcome, Snapshot), outcome
        await self._relay.put({Key(Topic.ACTIVATION): self._ledger.activation})
        await self._activate(outcome)
        running = outcome.models["models/m0"]
        await self._executor.carry_out([Deploy("broadsheet-m0", running)])
        await self._tick(outcome)
        self._report.fill(pb.Status())
        return outcome

    async def change(self, position: Position, change: Change) -> None:
        """Take over a change, and plan."""
        assert self.snapshot is not None
        outcome = accept_change(position, change, self.snapshot, POLICY)
        assert isinstance(outcome, Snapshot), outcome
        await self._activate(outcome)
        await self._tick(outcome)
        self._report.fill(pb.Status())

    async def _activate(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        await self._publisher.put(snapshot, withdrawn=())

    async def _tick(self, snapshot: Snapshot) -> None:
        now = time.time()
        situation = self._ledger.situation(snapshot, now=now, time_of_day=now, free={})
        planned = plan(situation)
        self._ledger.planned(snapshot, planned.models, now)
        await self._executor.publish_adapters(snapshot)
        notable = notable_statuses(
            snapshot,
            planned.models,
            self._ledger.applications.engines(now),
            draining_models(situation.applications.values(), planned.models.keys()),
            self._ledger.cold_starts(),
        )
        self._report.set(self._statuses.update(snapshot, notable, now))


class IngressPart:
    """What an ingress replica does with what the relay passes on."""

    def __init__(self, relays: RelayWorld) -> None:
        relay = relays.relay(Role.INGRESS, "ingress")
        self._watcher = relay.watcher(WATCHED)
        self._relayed = RelayedView(POLICY, _RULES, partial(read_snapshot, relay))
        self.views = ViewHolder()
        self.app = ingress_app(self.views, replica="ingress")

    async def follow(self) -> None:
        """Decide by what is in the relay now."""
        view = await self._relayed.take(await self._watcher.next())
        assert view is not None
        self.views.swap(view)

    async def list_models(self) -> int:
        """Answer `GET /v1/models`. Returns the bytes of the body."""
        sent: list[bytes] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: object) -> None:
            assert isinstance(message, dict)
            sent.append(message.get("body", b""))

        scope = {"type": "http", "method": "GET", "path": "/v1/models", "query_string": b"", "headers": []}
        await self.app(scope, receive, send)
        return sum(map(len, sent))
