"""The suite passes however it is started: a shell ignores SIGINT for background jobs."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_processes_of_the_tests_can_be_interrupted() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        child.send_signal(signal.SIGINT)
        try:
            assert child.wait(20) == -signal.SIGINT
        finally:
            child.kill()


def test_an_interrupt_that_the_runner_ignores_is_not_ignored_by_the_tests() -> None:
    inner = f"{Path(__file__)}::{test_processes_of_the_tests_can_be_interrupted.__name__}"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", inner],
        cwd=ROOT,
        preexec_fn=_ignore_interrupts,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
