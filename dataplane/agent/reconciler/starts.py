"""Which of the starts that requests have caused may begin now, and which wait in a queue. Pure.

A request for a model at zero starts it, and whoever may call every model may ask for all of them
at once. So the starts under way are bounded, in all and for each caller. Those that wait begin in
turn: first those of the caller with the fewest starts under way, and of these the oldest.

Only starts that requests have caused count. A model that runs without a request (`min_replicas`,
`warm_until`) starts at once, and so does a new revision while the old one answers. An application
for which Ray finds no room is not a start under way, or a few large models could keep all others
from starting. Of these there may be twice as many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from broadsheet.v1 import snapshot_pb2
from dataplane.agent.reconciler.actions import Deploy
from dataplane.agent.reconciler.activation import ModelPlan
from dataplane.agent.reconciler.demand import is_wanted_unasked
from dataplane.agent.reconciler.eviction import waits_for_room
from dataplane.agent.situation import Application, Asked, Phase, Situation, StartLimits
from dataplane.snapshot.activation import START_QUEUED, ModelActivation, State

_WAITING_FOR_ROOM_FACTOR = 2
"""Starts without room that do not count, for each start that may be under way."""
_UNKNOWN_CALLER = ""


@dataclass(frozen=True, slots=True)
class _Queued:
    name: str
    deploy: Deploy


class StartQueue:
    """The starts of one plan."""

    def __init__(self, situation: Situation) -> None:
        self._situation = situation
        self._queued: list[_Queued] = []
        self._all = _Count(situation.start_limits.total)
        self._by_caller: dict[str, _Count] = {}
        self._counted: set[str] = set()
        """Applications that are counted: a model and its pinned revisions may share one."""

    def takes(self, entry: snapshot_pb2.ModelEntry, planned: ModelPlan, target: Application | None) -> bool:
        """Take a model into account. Returns whether its deployment, if it has one, waits here.

        Args:
            entry: The model or pinned revision.
            planned: Its plan.
            target: Its application, if there is one.
        """
        activation = planned.activation
        if activation is None or activation.endpoints or is_wanted_unasked(self._situation, entry):
            return False
        if planned.deploy is not None:
            self._queued.append(_Queued(entry.name, planned.deploy))
            return True
        if target is not None and target.phase is Phase.STARTING and target.name in planned.keep:
            self._count(entry.name, target.name, has_room=not waits_for_room(self._situation, target))
        return False

    def begin(self, deploys: dict[str, Deploy]) -> Iterable[str]:
        """Add the deployments that may begin now to `deploys`. Returns the names of the others."""
        waiting: dict[frozenset[str], deque[_Queued]] = {}  # by callers: they are few, the queued may be thousands
        for queued in sorted(self._queued, key=self._turn):
            waiting.setdefault(self._asked(queued.name).callers, deque()).append(queued)
        while self._all.has_room and (callers := self._next(waiting)) is not None:
            first = waiting[callers].popleft()
            if not waiting[callers]:
                del waiting[callers]
            if first.deploy.application not in deploys:
                deploys[first.deploy.application] = first.deploy
                self._count(first.name, first.deploy.application, has_room=True)
        left = (queued for group in waiting.values() for queued in group)
        return [queued.name for queued in left if queued.deploy.application not in deploys]

    def _next(self, waiting: Mapping[frozenset[str], deque[_Queued]]) -> frozenset[str] | None:
        """The callers whose oldest start begins next; None: none of them may have one more."""
        turns = {
            callers: (taken, *self._turn(group[0]))
            for callers, group in waiting.items()
            if (taken := self._fewest_taken(callers)) is not None
        }
        return min(turns, key=lambda callers: turns[callers], default=None)

    def _turn(self, queued: _Queued) -> tuple[float, str]:
        return self._asked(queued.name).since, queued.name

    def _asked(self, name: str) -> Asked:
        return self._situation.asked.get(name) or Asked(since=self._situation.now)

    def _counts_of(self, callers: frozenset[str]) -> list[_Count]:
        limit = self._situation.start_limits.per_caller
        return [self._by_caller.setdefault(caller, _Count(limit)) for caller in callers or (_UNKNOWN_CALLER,)]

    def _fewest_taken(self, callers: frozenset[str]) -> int | None:
        """The starts of that caller who has the fewest; None: none may have one more."""
        return min((count.taken for count in self._counts_of(callers) if count.has_room), default=None)

    def _count(self, name: str, application: str, *, has_room: bool) -> None:
        if application in self._counted:
            return
        self._counted.add(application)
        for count in (self._all, *self._counts_of(self._asked(name).callers)):
            count.add(has_room=has_room)


@dataclass(slots=True)
class _Count:
    limit: int
    _under_way: int = 0
    _without_room: int = 0

    def add(self, *, has_room: bool) -> None:
        self._under_way += has_room
        self._without_room += not has_room

    @property
    def taken(self) -> int:
        return self._under_way + max(0, self._without_room - _WAITING_FOR_ROOM_FACTOR * self.limit)

    @property
    def has_room(self) -> bool:
        return self.taken < self.limit


def queued(activation: ModelActivation, limits: StartLimits) -> ModelActivation:
    """The activation of a model whose start waits in the queue."""
    if activation.state is not State.DEPLOYING:
        return activation  # FAILED: callers are refused until a start succeeds
    message = (
        f"Its start is queued behind those of other models; {limits.total} may be under way at once, and "
        f"{limits.per_caller} of one caller."
    )
    return replace(activation, application="", reason=START_QUEUED, message=message)
