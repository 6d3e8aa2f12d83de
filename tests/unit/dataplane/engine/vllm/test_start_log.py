from __future__ import annotations

import pytest

from dataplane.engine.out_of_memory import start_failure_reason
from dataplane.engine.vllm.start_log import kill_message, weights_seconds


def test_the_time_of_reading_weights_is_that_of_the_slowest_worker() -> None:
    log = (
        "(EngineCore pid=7) INFO 11-26 12:00:01 [default_loader.py:502] Loading weights took 2.13 seconds\n"
        "(EngineCore pid=8) INFO 11-26 12:00:02 [default_loader.py:502] Loading weights took 3.50 seconds\n"
    )
    assert weights_seconds(log) == 3.5
    assert weights_seconds("INFO nothing of the kind") is None


@pytest.mark.parametrize(
    ("kernel_kills", "reason", "words"),
    [(1, "OUT_OF_MEMORY", "kernel killed"), (0, "ENGINE_START_FAILED", "not known")],
)
def test_an_engine_process_that_was_killed_while_it_started_has_a_reason(
    kernel_kills: int, reason: str, words: str
) -> None:
    said = "Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': -9}"
    message = kill_message(said, kernel_kills)
    assert words in message
    assert start_failure_reason(message) == reason
    assert kill_message(said.replace("-9", "1"), kernel_kills) == ""
