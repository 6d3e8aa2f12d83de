"""What an agent puts into the relay, the next agent finds: signed head included."""

from __future__ import annotations

from dataclasses import replace

from dataplane.agent.relayed_snapshot import find_snapshot, put_snapshot
from dataplane.relay.topics import Role
from tests.disk import ONE
from tests.unit.dataplane.relay.relay_world import RelayWorld


async def test_the_next_agent_finds_the_snapshot_with_its_signed_head() -> None:
    relay = RelayWorld().relay(Role.AGENT, "agent")
    assert await find_snapshot(relay) is None
    await put_snapshot(relay, replace(ONE, signed_head=b"signed"), rules="rules", withdrawn=())
    found = await find_snapshot(relay)
    assert found is not None
    assert (found.position, found.entries, found.signed_head) == (ONE.position, ONE.entries, b"signed")
