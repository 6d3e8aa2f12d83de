from __future__ import annotations

from controlplane.push.subscription.states import TRANSITIONS, Event, State


def test_goodbye_closes_a_stream_in_any_state() -> None:
    assert all(TRANSITIONS[state, Event.GOODBYE] is State.CLOSED for state in State)


def test_a_closed_stream_stays_closed() -> None:
    assert {after for (before, _), after in TRANSITIONS.items() if before is State.CLOSED} == {State.CLOSED}


def test_a_snapshot_is_answered_once() -> None:
    for answer in (Event.ACK, Event.NACK):
        assert TRANSITIONS[State.ANSWER_EXPECTED, answer] is State.IDLE
        assert (State.IDLE, answer) not in TRANSITIONS
