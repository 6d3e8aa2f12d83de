"""What must hold of waves."""

from __future__ import annotations

from collections.abc import Callable, Collection

from controlplane.catalog.domain import Position
from controlplane.fleet.waves.states import Event as WaveEvent
from tests.simulation.parts.server_stream import ServerStream
from tests.simulation.parts.waves import WavesTable
from tests.simulation.trace import AnyPosition, Trace, shown
from tests.simulation.violation import Violation

CANARY_ID = "dp0"
"""The data plane that the first wave selects."""

Served = Callable[[], Collection[AnyPosition]]
"""What was in service at every ingress replica of the canary."""


class RolloutChecker:
    """Follows the rollout."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._is_excused = False
        """Whether the rollout under way goes on without the canary."""

    def moved(self, method: str, table: WavesTable, served: Served) -> None:
        """An operator or a control plane has moved the rollout, or set the policy."""
        rollout = table.rollout
        if rollout is None:
            return
        target = rollout.target.position if rollout.target is not None else None
        words = f"{method}: {rollout.state.value}, wave {rollout.wave}, target {{}}, stable {{}}"
        self._trace.add("rollout", words, target, rollout.stable.position)
        if method == WaveEvent.NEXT.value and target is not None:
            self._check_wave(target, served())
        elif method == WaveEvent.COMPLETE.value:
            self._check_wave(rollout.stable.position, served())
        self._is_excused = CANARY_ID in rollout.excused

    def _check_wave(self, reached: Position, served: Collection[AnyPosition]) -> None:
        """The canary's wave has ended: the canary serves the target, or an operator has said that
        the rollout goes on without it."""
        if self._is_excused:
            return
        if not any(item.store_uid == reached.store_uid and item.revision >= reached.revision for item in served):
            raise Violation("a wave begins when the one before is well", f"{CANARY_ID} never served {shown(reached)}")


def check_given(stream: ServerStream, revision: int) -> None:
    """Check that a data plane gets no snapshot that a wave holds back from it.

    Raises:
        Violation: it does.
    """
    table = stream.plane.databases.waves
    rollout = table.rollout
    if rollout is None or not table.has_policy:
        return
    target = rollout.target if stream.stream.data_plane_id in rollout.given else None
    allowed = target or rollout.stable
    if revision > allowed.position.revision:
        name = stream.stream.data_plane_id
        raise Violation("a wave begins when the one before is well", f"{name} is sent {revision}, and is held")
