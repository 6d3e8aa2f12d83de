"""The standard streams and the terminal's size, as services, containers and old terminals leave
them."""

from __future__ import annotations

import io
import os
import sys

_SIZES = ("COLUMNS", "LINES")


def prepare() -> None:
    """Make the standard streams usable, whatever they are.

    Call it before anything is printed, and before any file is opened.
    """
    # In this order: opening takes the lowest free descriptor, so each gets its own.
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115  # lives as long as the process
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal lacks is shown as its escape.
            stream.reconfigure(errors="backslashreplace")
    for name in _SIZES:
        # Shells and containers without a terminal say 0, and rich would print nothing at all.
        text = os.environ.get(name, "")
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            os.environ.pop(name, None)


def finish() -> None:
    """Write what is still buffered.

    Raises:
        OSError: It could not be written: the disk is full, or the reader has gone.
    """
    sys.stdout.flush()


def give_up_output() -> None:
    """Drop what stdout still buffers: at its end, Python would try to write it again."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
