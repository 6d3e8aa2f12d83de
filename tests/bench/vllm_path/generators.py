"""The processes of the load generator."""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from tests.bench.vllm_path.load import Counts, Job, Target, summed

_LEAD_S = 0.3
"""From a job's dispatch to its begin: all processes have it by then."""

Seen = TypeVar("Seen")


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """The load of one measurement."""

    streams: int
    ramp_s: float
    """Before the window: the streams begin."""
    window_s: float
    max_tokens: int
    prompt_words: int


class Measured(msgspec.Struct, Generic[Seen]):
    """What one measurement gave."""

    counts: Sequence[Counts]
    """One; of targets that are asked in turns, one for each."""
    seen: Seen
    """What was observed beside it during the window."""


class Generators:
    """Processes that wait for jobs. Use it as a context."""

    def __init__(self, size: int) -> None:
        command = [sys.executable, "-m", "tests.bench.vllm_path.load"]
        self._processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(size)
        ]

    def __enter__(self) -> Generators:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            with process:
                process.kill()

    def measure(
        self,
        targets: Sequence[Target],
        shape: Shape,
        during: Callable[[float, float], Seen],
        *,
        alternating: bool = False,
    ) -> Measured[Seen]:
        """Put load on the targets, and observe something else meanwhile.

        Args:
            targets: Where to ask.
            shape: How much.
            alternating: Every stream asks all of them in turns.
            during: Called with the begin and the end of the window, in seconds since the epoch.

        Raises:
            RuntimeError: a process has ended.
        """
        begin = time.time() + _LEAD_S
        window = (begin + shape.ramp_s, begin + shape.ramp_s + shape.window_s)
        seed = secrets.token_hex(8)
        for number, process in enumerate(self._processes):
            job = Job(
                targets=targets,
                alternating=alternating,
                streams=list(range(number, shape.streams, len(self._processes))),
                seed=seed,
                begin=begin,
                window_begin=window[0],
                window_end=window[1],
                max_tokens=shape.max_tokens,
                prompt_words=shape.prompt_words,
            )
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(job) + b"\n")
            process.stdin.flush()
        seen = during(*window)
        parts = [_counts(process) for process in self._processes]
        return Measured([summed(of_one) for of_one in zip(*parts, strict=True)], seen)


def _counts(process: subprocess.Popen[bytes]) -> list[Counts]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a process of the load generator has ended; its words are above")
    return msgspec.json.decode(line, type=list[Counts])
