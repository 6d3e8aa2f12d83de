"""The life of an application as a table of transitions. Pure.

The agent's own steps are DEPLOYED, ADOPTED, TAKEN_ON and DELETED, and for the routing JOINED and
LEFT. They raise `IllegalTransition` where the table does not allow them: that is a fault of the
agent. READY, FAILED and GONE are reported by others, late or in any order. Where they mean nothing,
the table says why they are ignored.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar


class Stage(enum.Enum):
    """Where an application is in its life."""

    ABSENT = "ABSENT"
    """The ledger has no such application."""
    REQUESTED = "REQUESTED"
    """The call that deploys it is under way."""
    ADOPTED = "ADOPTED"
    """An earlier agent deployed it. It is not known whether Ray Serve took it on."""
    STARTING = "STARTING"
    """Ray Serve has taken it on. No replica has answered."""
    RUNNING = "RUNNING"
    """A replica has answered."""
    FAILED = "FAILED"
    """It was given up, because it could not start."""
    DELETING = "DELETING"
    """Its deletion was requested."""


class Routing(enum.Enum):
    """Whether ingress replicas send requests to an application."""

    NEVER = "NEVER"
    """No activation has named it."""
    JOINED = "JOINED"
    """The latest activation names it."""
    LEFT = "LEFT"
    """An activation has named it. The latest one does not."""


class Event(enum.Enum):
    """What happens to an application."""

    DEPLOYED = "DEPLOYED"
    """The agent is about to deploy it."""
    ADOPTED = "ADOPTED"
    """The agent has started and has found the record that an earlier agent wrote."""
    TAKEN_ON = "TAKEN_ON"
    """The call that deploys it has returned: Ray Serve has taken it on."""
    READY = "READY"
    """A replica reports that it answers."""
    FAILED = "FAILED"
    """It could not start."""
    DELETED = "DELETED"
    """The agent requests its deletion."""
    GONE = "GONE"
    """Ray Serve no longer lists it."""
    JOINED = "JOINED"
    """An activation names it."""
    LEFT = "LEFT"
    """An activation no longer names it."""


@dataclass(frozen=True, slots=True)
class Ignored:
    """The event changes nothing."""

    reason: str


_HAS_ANSWERED = Ignored("Ray Serve replaces the replicas of an application that has answered")
_FAILED_BEFORE = Ignored("the first failure of a start is the one that counts")
_IS_DELETED = Ignored("the application is being deleted")
_IS_ABSENT = Ignored("the application is gone, and a replica of it has reported late")

STAGES: Mapping[Stage, Mapping[Event, Stage | Ignored]] = {
    Stage.ABSENT: {
        Event.DEPLOYED: Stage.REQUESTED,
        Event.ADOPTED: Stage.ADOPTED,
        Event.READY: _IS_ABSENT,
        Event.FAILED: _IS_ABSENT,
        Event.GONE: Ignored("the application is gone already"),
    },
    Stage.REQUESTED: {
        Event.TAKEN_ON: Stage.STARTING,
        Event.READY: Stage.RUNNING,
        Event.FAILED: Stage.FAILED,
        Event.GONE: Ignored("the call that deploys it is still under way"),
    },
    Stage.ADOPTED: {
        Event.READY: Stage.RUNNING,
        Event.FAILED: Stage.FAILED,
        Event.DELETED: Stage.DELETING,
        Event.GONE: Stage.ABSENT,
    },
    Stage.STARTING: {
        Event.READY: Stage.RUNNING,
        Event.FAILED: Stage.FAILED,
        Event.DELETED: Stage.DELETING,
        Event.GONE: Stage.ABSENT,
    },
    Stage.RUNNING: {
        Event.TAKEN_ON: Stage.RUNNING,  # a replica was quicker than the call that deploys
        Event.READY: Ignored("only the first answer counts"),
        Event.FAILED: _HAS_ANSWERED,
        Event.DELETED: Stage.DELETING,
        Event.GONE: Stage.ABSENT,
    },
    Stage.FAILED: {
        Event.TAKEN_ON: Stage.FAILED,  # a replica failed before the call that deploys returned
        Event.READY: Stage.RUNNING,
        Event.FAILED: _FAILED_BEFORE,
        Event.DELETED: Stage.DELETING,
        Event.GONE: Stage.ABSENT,
    },
    Stage.DELETING: {
        Event.READY: _IS_DELETED,
        Event.FAILED: _IS_DELETED,
        Event.GONE: Stage.ABSENT,
    },
}

ROUTINGS: Mapping[Routing, Mapping[Event, Routing | Ignored]] = {
    Routing.NEVER: {Event.JOINED: Routing.JOINED},
    Routing.JOINED: {Event.LEFT: Routing.LEFT},
    Routing.LEFT: {Event.JOINED: Routing.JOINED},
}

_State = TypeVar("_State", Stage, Routing)


class IllegalTransition(Exception):
    """The agent did something to an application that its state does not allow."""

    def __init__(self, application: str, state: Stage | Routing, event: Event) -> None:
        super().__init__(f"{application}: {event.value} is not possible while it is {state.value}")
        self.application = application
        self.state = state
        self.event = event


def follow(
    table: Mapping[_State, Mapping[Event, _State | Ignored]], application: str, state: _State, event: Event
) -> _State | Ignored:
    """The state after `event`, or why the event is ignored.

    Args:
        table: `STAGES` or `ROUTINGS`.
        application: Named in the error.
        state: The state before.
        event: What happens.

    Raises:
        IllegalTransition: the table has no entry for the event.
    """
    after = table[state].get(event)
    if after is None:
        raise IllegalTransition(application, state, event)
    return after


def follow_step(
    table: Mapping[_State, Mapping[Event, _State | Ignored]], application: str, state: _State, event: Event
) -> _State:
    """The state after a step of the agent, which no table ignores.

    Raises:
        IllegalTransition: the table has no entry for the event.
    """
    after = follow(table, application, state, event)
    if isinstance(after, Ignored):
        raise IllegalTransition(application, state, event)
    return after
