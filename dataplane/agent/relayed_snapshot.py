"""The active snapshot in the relay: an agent puts it there, and the next agent finds it."""

from __future__ import annotations

from collections.abc import Iterable

from dataplane.relay.messages import SerializedSnapshot
from dataplane.relay.relay import Relay
from dataplane.relay.topics import Key, Topic
from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.snapshot.validation import validation_result
from dataplane.sync.snapshot_file import StoredSnapshot

_KEY = Key(Topic.SNAPSHOT)


async def put_snapshot(relay: Relay, snapshot: Snapshot, *, rules: str, withdrawn: Iterable[Position]) -> None:
    """Put `snapshot` into the relay, for every ingress replica.

    Args:
        relay: The agent's.
        snapshot: The snapshot to serve.
        rules: From `validation_rules`.
        withdrawn: Snapshots that may be replaced by this older one, because the agent crashed on
            them.
    """
    validation = validation_result(snapshot, rules)
    await relay.put({_KEY: SerializedSnapshot.of(snapshot, validation, withdrawn=frozenset(withdrawn))})


async def find_snapshot(relay: Relay) -> StoredSnapshot | None:
    """What an earlier agent has put into service, and perhaps could not keep on disk."""
    relayed: SerializedSnapshot | None = (await relay.read([_KEY])).changed.get(_KEY)
    if relayed is None:
        return None
    return StoredSnapshot(position=relayed.position, entries=relayed.entries(), signed_head=relayed.signed_head)
