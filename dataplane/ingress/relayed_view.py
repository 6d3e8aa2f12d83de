"""Makes views from what the relay passes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from dataplane.relay.relay import Changes
from dataplane.relay.snapshots import BASE, RelayedSnapshot, SerializedChange, SnapshotBase
from dataplane.relay.topics import Key, Topic, Watched
from dataplane.snapshot.accept import accept
from dataplane.snapshot.activation import Activation, View
from dataplane.snapshot.changes.accept_change import accept_change
from dataplane.snapshot.policy import Policy
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.snapshot.validation import trusted_quarantines

WATCHED: tuple[Watched, ...] = (Topic.SNAPSHOT_BASE, Topic.CHANGES, Topic.ACTIVATION)
"""What `RelayedView.take` has to be told of."""

_log = structlog.get_logger("dataplane.ingress.relayed_view")


class RelayedView:
    """The snapshot and the activation that were passed on last, each taken over by itself.

    A change of the held snapshot is applied to it. Everything that was passed on is read at the
    start, after a change was missed or refused, and when the agent has replaced the snapshot.
    """

    def __init__(self, policy: Policy, rules: str, read: Callable[[], Awaitable[RelayedSnapshot | None]]) -> None:
        """
        Args:
            policy: What this data plane accepts.
            rules: From `validation_rules`: whether the agent's findings can be reused.
            read: Reads all that there is of the snapshot (`read_snapshot`).
        """
        self._policy = policy
        self._rules = rules
        self._read = read
        self._snapshot: Snapshot | None = None
        self._activation: Activation | None = None
        self._is_behind = False
        """Something newer was passed on than could be taken over."""

    async def take(self, changes: Changes) -> View | None:
        """Take over changes of the relay.

        Returns:
            The view to decide by from now on; None: a snapshot or an activation is missing still.
        """
        steps: dict[str, SerializedChange] = changes.values(Topic.CHANGES)
        for name in sorted(steps):
            await self._take_change(steps[name])
        base: SnapshotBase | None = changes.changed.get(BASE)
        if base is not None and base.replaces(self._held):
            self._is_behind = True
        if self._is_behind:
            await self._take_all()
        self._activation = changes.changed.get(Key(Topic.ACTIVATION), self._activation)
        if self._snapshot is None or self._activation is None:
            return None
        return View(snapshot=self._snapshot, activation=self._activation)

    @property
    def _held(self) -> Position | None:
        return self._snapshot.position if self._snapshot is not None else None

    async def _take_change(self, step: SerializedChange) -> None:
        held = self._snapshot
        if self._is_behind or not step.replaces(self._held):
            return
        if held is None or step.change.base != held.position:
            self._is_behind = True
            return
        # In a thread, as everything below: a change may have 100,000 entries, and requests go on.
        outcome = await asyncio.to_thread(self._changed, held, step)
        if isinstance(outcome, Rejection):
            _refused(outcome)
            self._is_behind = True
        else:
            self._snapshot = outcome

    async def _take_all(self) -> None:
        relayed = await self._read()
        if relayed is None:
            return  # the relay was restarted, and the agent puts it again
        outcome = await asyncio.to_thread(self._accepted, relayed, self._snapshot)
        if isinstance(outcome, Rejection):
            _refused(outcome)
            return
        if SnapshotBase(position=outcome.position, withdrawn=relayed.whole.withdrawn).replaces(self._held):
            self._snapshot = outcome
        self._is_behind = False

    def _accepted(self, relayed: RelayedSnapshot, held: Snapshot | None) -> Snapshot | Rejection:
        """The snapshot that was passed on, which may be older than what is held."""
        whole = relayed.whole
        if held is not None and whole.position.revision < held.position.revision:
            held = None
        outcome = accept(
            whole.position,
            whole.entries(),
            held=held,
            policy=self._policy,
            found=trusted_quarantines(whole.validation, whole.position, self._rules),
            signed_head=whole.signed_head,
        )
        for step in relayed.following():
            if isinstance(outcome, Rejection):
                break
            outcome = self._changed(outcome, step)
        return outcome

    def _changed(self, held: Snapshot, step: SerializedChange) -> Snapshot | Rejection:
        found = trusted_quarantines(step.validation, step.position, self._rules)
        return accept_change(step.position, step.change, held, self._policy, found=found, signed_head=step.signed_head)


def _refused(rejection: Rejection) -> None:
    # The agent has accepted the same bytes: this process or the relay is at fault.
    _log.error("snapshot_refused", reason=rejection.reason, message=rejection.message)
