"""Child processes of the tests end when the tests end, also when those are killed.

pytest-xdist kills its workers 10 s after a Ctrl-C.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def sent_at_our_death(number: signal.Signals) -> Callable[[], None]:
    """A `preexec_fn` that has the child get this signal when the thread that started it ends.

    The kernel forgets it when the child changes its user.
    """
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)

    return ask
