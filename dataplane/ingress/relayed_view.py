"""Makes views from what the relay passes on."""

from __future__ import annotations

import asyncio

import structlog

from dataplane.relay.messages import SerializedSnapshot
from dataplane.relay.relay import Changes
from dataplane.relay.topics import Key, Topic
from dataplane.snapshot.accept import accept
from dataplane.snapshot.activation import Activation, View
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Snapshot
from dataplane.snapshot.validation import trusted_quarantines

_log = structlog.get_logger("dataplane.ingress.relayed_view")


class RelayedView:
    """The snapshot and the activation that were passed on last, each taken over by itself."""

    def __init__(self, policy: Policy, rules: str) -> None:
        """
        Args:
            policy: What this data plane accepts.
            rules: From `validation_rules`: whether the agent's findings can be reused.
        """
        self._policy = policy
        self._rules = rules
        self._snapshot: Snapshot | None = None
        self._activation: Activation | None = None

    async def take(self, changes: Changes) -> View | None:
        """Take over changes of the relay.

        Returns:
            The view to decide by from now on; None: a snapshot or an activation is missing still.
        """
        relayed: SerializedSnapshot | None = changes.changed.get(Key(Topic.SNAPSHOT))
        held = self._snapshot.position if self._snapshot else None
        if relayed is not None and relayed.replaces(held):
            await self._take_snapshot(relayed)
        self._activation = changes.changed.get(Key(Topic.ACTIVATION), self._activation)
        if self._snapshot is None or self._activation is None:
            return None
        return View(snapshot=self._snapshot, activation=self._activation)

    async def _take_snapshot(self, relayed: SerializedSnapshot) -> None:
        # An older snapshot than the held one is taken over if the agent has withdrawn the held one.
        # In a thread: 100,000 entries take seconds, and requests go on.
        held = self._snapshot
        if held is not None and relayed.position.revision < held.position.revision:
            held = None
        accepted = await asyncio.to_thread(self._accept, relayed, held)
        if isinstance(accepted, Rejection):
            # The agent has accepted the same bytes: this process or the relay is at fault.
            _log.error("snapshot_refused", reason=accepted.reason, message=accepted.message)
        else:
            self._snapshot = accepted

    def _accept(self, relayed: SerializedSnapshot, held: Snapshot | None) -> Snapshot | Rejection:
        found = trusted_quarantines(relayed.validation, relayed.position, self._rules)
        return accept(relayed.position, relayed.entries(), held=held, policy=self._policy, found=found)
