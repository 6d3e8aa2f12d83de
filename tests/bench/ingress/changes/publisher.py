"""The publisher: accepts changes as an agent does, and puts them into the relay, which it holds.

    python -m tests.bench.ingress.changes.publisher SOCKET ENTRIES ENGINE_URL

Beside the relay's calls, its socket takes a `Command`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
from pathlib import Path

import msgspec

from dataplane.agent.relayed_snapshot import SnapshotPublisher
from dataplane.relay.actor import RelayActor
from dataplane.relay.relay import Relay
from dataplane.relay.topics import Key, Role, Topic, Writer
from dataplane.snapshot.activation import Activation
from dataplane.snapshot.changes.accept_change import accept_change
from dataplane.snapshot.snapshot import Snapshot
from tests import views
from tests.bench.ingress.changes import link
from tests.changed_plane import MODELS, catalog, changing_adapter, one_adapter_changes
from tests.raw import POLICY, accepted, model, raws

RULES = "rules"
"""Equal at both ends: the follower trusts what was validated here."""
CHANGE_INTERVAL_S = 0.1
_PREFIX = b"command "


class Command(msgspec.Struct, frozen=True):
    """What the publisher is asked to do."""

    seconds: float = 0.0
    """Change one adapter each `CHANGE_INTERVAL_S`, so long."""
    replace: bool = False
    """Put the snapshot that was prepared, in which every adapter differs."""
    prepare: bool = False
    """Prepare such a snapshot, so that replacing takes no time here."""

    def pack(self) -> bytes:
        """The call of it."""
        return _PREFIX + msgspec.json.encode(self)


class Publisher:
    """The agent's part of a change, beside keeping it on disk and planning."""

    def __init__(self, count: int, engine_url: str) -> None:
        self._count = count
        self._engine_url = engine_url
        self._actor = RelayActor()
        self._relay = Relay(Writer(Role.AGENT, "agent"), open_actor=lambda: self)
        self._publisher = SnapshotPublisher(self._relay, rules=RULES)
        self._random = random.Random(0)
        self._snapshot: Snapshot
        self._prepared: Snapshot | None = None

    @property
    def call(self) -> Publisher:
        """The actor's method, as a handle of Ray's has it."""
        return self

    async def remote(self, request: bytes) -> bytes:
        """Call the actor."""
        return await self._actor.call(request)

    async def run(self, path: Path) -> None:
        """Publish a catalog, then answer calls until it is cancelled."""
        self._snapshot = accepted(catalog(self._count))
        models = {"models/m0": views.ready(self._engine_url)}
        await self._relay.put({Key(Topic.ACTIVATION): Activation(sequence=1, models=models)})
        await self._publisher.put(self._snapshot, withdrawn=())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._publisher.keep_compact())
            tasks.create_task(link.serve(path, self.answer))

    async def answer(self, request: bytes) -> bytes:
        """Answer a call of the relay, or a command: with the revision that is published then."""
        if not request.startswith(_PREFIX):
            return await self.remote(request)
        command = msgspec.json.decode(request.removeprefix(_PREFIX), type=Command)
        if command.prepare:
            self._prepared = await asyncio.to_thread(self._other_snapshot)
        if command.replace:
            assert self._prepared is not None, "it was prepared"
            self._snapshot = self._prepared
            await self._publisher.put(self._snapshot, withdrawn=())
        await self._change(command.seconds)
        return str(self._snapshot.position.revision).encode()

    async def _change(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        picks = self._random.sample(range(self._count - MODELS), int(seconds / CHANGE_INTERVAL_S))
        due = loop.time()
        for at, change in one_adapter_changes(self._snapshot, picks):
            outcome = accept_change(at, change, self._snapshot, POLICY)
            assert isinstance(outcome, Snapshot), outcome
            self._snapshot = outcome
            await self._publisher.put(outcome, withdrawn=())
            due += CHANGE_INTERVAL_S
            await asyncio.sleep(due - loop.time())

    def _other_snapshot(self) -> Snapshot:
        revision = self._snapshot.position.revision + 1
        models = [model(f"m{number}") for number in range(MODELS)]
        adapters = [changing_adapter(number, revision) for number in range(self._count - MODELS)]
        return accepted(raws(*models, *adapters), held=self._snapshot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("socket", type=Path)
    parser.add_argument("entries", type=int)
    parser.add_argument("engine_url")
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Publisher(arguments.entries, arguments.engine_url).run(arguments.socket))


if __name__ == "__main__":
    main()
