"""What is due on a stream, and when. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from controlplane.push.subscription.goodbyes import ANSWER_TIMEOUT, SILENT
from controlplane.push.subscription.states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long things may take. Seconds."""

    heartbeat_s: float = 10.0
    """Between two Heartbeats. The client answers each, so it also bounds how old `last seen` is."""
    hello_timeout_s: float = 10.0
    """From the start of the stream to its Hello."""
    answer_timeout_s: float = 120.0
    """From a Commit or a chunk of refs to its answer: a client checks a million entries in about a
    minute."""
    silence_timeout_s: float = 60.0
    """Without any message: six Heartbeats without an answer."""


class Timers:
    """The deadlines of a stream. Times are seconds of any clock that does not go back."""

    def __init__(self, limits: Limits, *, now_s: float) -> None:
        self._limits = limits
        self._received_s = now_s
        self._heartbeat_due_s = now_s + limits.heartbeat_s
        self._answer_due_s = math.inf

    def received(self, now_s: float) -> None:
        """A message has come."""
        self._received_s = now_s

    def heartbeat_sent(self, now_s: float) -> None:
        """A Heartbeat is written."""
        self._heartbeat_due_s = now_s + self._limits.heartbeat_s

    def answer_awaited(self, now_s: float) -> None:
        """A Commit or refs are written. While an answer is awaited already, nothing changes."""
        self._answer_due_s = min(self._answer_due_s, now_s + self._limits.answer_timeout_s)

    def answered(self) -> None:
        """No answer is awaited any more."""
        self._answer_due_s = math.inf

    def heartbeat_is_due(self, now_s: float) -> bool:
        """Whether to send a Heartbeat."""
        return now_s >= self._heartbeat_due_s

    def overdue(self, state: State, now_s: float) -> str | None:
        """The reason to end the stream by now; None: there is none."""
        if state is State.HELLO_EXPECTED:
            return SILENT if now_s >= self._received_s + self._limits.hello_timeout_s else None
        if state is State.CLOSED:
            return None
        if now_s >= self._answer_due_s:
            return ANSWER_TIMEOUT
        return SILENT if now_s >= self._received_s + self._limits.silence_timeout_s else None

    def due_s(self, state: State) -> float:
        """The time of the next deadline."""
        if state is State.HELLO_EXPECTED:
            return self._received_s + self._limits.hello_timeout_s
        return min(self._heartbeat_due_s, self._answer_due_s, self._received_s + self._limits.silence_timeout_s)
