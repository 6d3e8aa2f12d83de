"""Processes of the tests end when these do, also when they are killed, as pytest-xdist does 10 s
after a Ctrl-C."""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def sent_at_our_death(number: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn`: the process gets this signal when the thread that started it ends, unless it
    changes its user."""
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)

    return ask
