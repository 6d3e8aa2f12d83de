"""The states of the fleet's rollout, and the transitions between them. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType


class State(enum.Enum):
    """Where the fleet's rollout is, as `FleetRollout.State` of the API has it."""

    IDLE = "IDLE"
    """Everyone may have the stable snapshot."""
    ROLLING = "ROLLING"
    """A wave gets the target, and is not well with it yet."""
    SOAKING = "SOAKING"
    """The wave is well, for as long as its soak asks."""
    HALTED = "HALTED"
    """No further data plane gets the target, until an operator decides."""


class Event(enum.Enum):
    """What moves a rollout from a state to the next."""

    BEGIN = "BeginFleetRollout"
    """A snapshot is newer than the stable one."""
    GIVE = "GiveFleetRollout"
    """Data planes of waves that have begun get the target."""
    WELL = "SoakFleetRollout"
    """The wave is well."""
    UNWELL = "UnsoakFleetRollout"
    """The wave is not well any more, and nobody is hurt."""
    NEXT = "AdvanceFleetRollout"
    """The wave was well for long enough, and is not the last."""
    COMPLETE = "CompleteFleetRollout"
    """The last wave was well for long enough: the target is stable."""
    HALT = "HaltFleetRollout"
    """Somebody is hurt, the wave takes too long, or an operator says so."""
    RESUME = "ResumeFleetRollout"
    """An operator goes on with the target, without those who were hurt."""
    RESTART = "RestartFleetRollout"
    """A roll back, or an operator: the newest snapshot is the target, from the first wave on."""
    FORCE = "ForceFleetRollout"
    """An operator: the newest snapshot is stable."""


TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.IDLE, Event.BEGIN): State.ROLLING,
        (State.ROLLING, Event.GIVE): State.ROLLING,
        (State.ROLLING, Event.WELL): State.SOAKING,
        (State.ROLLING, Event.HALT): State.HALTED,
        (State.SOAKING, Event.GIVE): State.SOAKING,
        (State.SOAKING, Event.UNWELL): State.ROLLING,
        (State.SOAKING, Event.NEXT): State.ROLLING,
        (State.SOAKING, Event.COMPLETE): State.IDLE,
        (State.SOAKING, Event.HALT): State.HALTED,
        (State.HALTED, Event.RESUME): State.ROLLING,
        **{(state, Event.RESTART): State.ROLLING for state in (State.ROLLING, State.SOAKING, State.HALTED)},
        **{(state, Event.FORCE): State.IDLE for state in State},
    }
)
"""The next state. Without an entry, the event is illegal in that state."""

LOGGED = frozenset({Event.BEGIN, Event.NEXT, Event.COMPLETE, Event.HALT, Event.RESUME, Event.RESTART, Event.FORCE})
"""The events that the audit log has. The others say nothing that an operator would look for."""
