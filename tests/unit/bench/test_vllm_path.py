"""The arithmetic of `make bench-vllm`."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.bench.vllm_path import gpu, rows
from tests.bench.vllm_path.__main__ import parser
from tests.bench.vllm_path.load import Counts, Job, Target, summed, work
from tests.bench.vllm_path.random_models import SHAPES, tensors
from tests.bench.vllm_path.rows import Row, Spread, Table, percentile, ratio, row_of


def row(subject: str, tokens_per_s: float, first_s: float = 1.0, round_id: str = "a", streams: int = 8) -> Row:
    return Row(
        model="m",
        subject=subject,
        streams=streams,
        round=round_id,
        tokens_per_s=tokens_per_s,
        first_token_s=[first_s],
        ended=1,
        tokens_per_event=1.0,
        prompt_tokens=1,
        error_count=0,
        errors=[],
        cpu_cores={},
    )


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (50, 99, 100)
    assert percentile([7.0], 50) == 7
    assert math.isnan(percentile([], 50))


CASE = rows.Case(model="m", subject="direct", streams=4, round="a", window_s=2.0)
IN_TURNS = msgspec.structs.replace(CASE, alternating=True)


def test_tokens_are_counted_by_events_and_by_tokens_of_each_event() -> None:
    counts = Counts(events=100, ended=2, ended_tokens=60, ended_events=40)
    assert row_of(CASE, counts, {}).tokens_per_s == 75


def test_a_subject_that_is_asked_in_turns_has_the_tokens_of_all_streams() -> None:
    counts = Counts(events=1, ended=9, ended_events=1, whole=3, whole_tokens=30, whole_s=6.0)
    assert row_of(IN_TURNS, counts, {}).tokens_per_s == 20


@pytest.mark.parametrize("case", [CASE, IN_TURNS])
def test_a_window_in_which_nothing_ends_says_nothing(case: rows.Case) -> None:
    with pytest.raises(ValueError, match="longer window"):
        row_of(case, Counts(events=5), {})


def test_ratios_are_those_within_a_round() -> None:
    slow = [row("direct", speed, round_id=number) for speed, number in ((100, "a"), (200, "b"), (9, "c"))]
    fast = [row("through", speed, round_id=number) for speed, number in ((110, "a"), (180, "b"), (1, "d"))]
    assert ratio(fast, slow, rows.tokens_per_s) == Spread(median=1.0, low=0.9, high=1.1, count=2)
    assert ratio(fast, [], rows.tokens_per_s) is None


def test_the_99th_percentile_is_that_of_all_rounds_both_have() -> None:
    base = [row("direct", 1, first_s=1.0, round_id=number) for number in "abc"]
    slow_once = [row("through", 1, first_s=seconds, round_id=number) for seconds, number in ((1, "a"), (3, "b"))]
    assert rows.first_token_ratio(slow_once, base, 99) == Spread(median=3.0, low=1.0, high=3.0, count=2)
    assert rows.first_token_ratio(slow_once, base, 50) == Spread(median=2.0, low=1.0, high=3.0, count=2)


def test_the_best_vllm_serve_is_the_one_with_most_tokens() -> None:
    table = Table([row("plain1", 100), row("plain4", 300), row("through", 400), row("plain1", 120)])
    assert table.best_plain("m", 8) == "plain4"
    assert Table([row("through", 1)]).best_plain("m", 8) is None


def test_a_verdict_is_missed_as_soon_as_the_median_is() -> None:
    held = Table([row("through", 100, 1.02), row("direct", 100, 1.0), row("plain1", 100, 1.0)]).verdicts()
    assert {line.split()[0] for line in held} == {"holds"}
    assert len(held) == 6
    missed = Table([row("through", 97, 1.06), row("direct", 100), row("plain1", 98)]).verdicts()
    assert {line.split()[0] for line in missed} == {"MISSED"}
    fewer = Table([row("through", 100, streams=8), row("through", 90, streams=16)]).verdicts()
    assert fewer == ["MISSED m: more streams, not fewer tokens/s (8: 100, 16: 90)"]


def test_rows_are_kept_in_a_file_that_several_runs_share(tmp_path: Path) -> None:
    kept = [row("through", 1), row("direct", 2)]
    assert rows.read(tmp_path / "rows") == []
    for one in kept:
        rows.append(tmp_path / "rows", one)
    assert rows.read(tmp_path / "rows") == kept


def test_the_processes_of_the_load_are_added_up() -> None:
    total = summed(
        [
            Counts(events=1, first_token_s=[2.0], error_count=4, errors=["a"] * 4, cpu_cores=0.5),
            Counts(events=2, first_token_s=[1.0], error_count=3, errors=["b"] * 3, cpu_cores=0.9),
        ]
    )
    assert (total.events, total.first_token_s, total.error_count) == (3, [1.0, 2.0], 7)
    assert (total.errors, total.cpu_cores) == (["a"] * 4 + ["b"], 0.9)


def test_every_step_on_a_gpu_has_options_that_are_understood() -> None:
    for step in gpu.STEPS:
        for rehearse in (False, True):
            given = parser().parse_args(gpu.words_of(step, ["--router-site=x", "--rounds=3"], rehearse=rehearse))
            assert given.rounds == 3
            assert given.model == ("tiny" if rehearse else {"s": "135m", "b": "8b"}[step[0]])
    assert "router" not in parser().parse_args(gpu.words_of("big", [], rehearse=False)).subjects


def test_an_8b_model_has_8_billion_weights() -> None:
    config = {"vocab_size": 128_256, **SHAPES["8b"]}
    assert sum(math.prod(shape) for shape in tensors(config).values()) == pytest.approx(8.03e9, rel=0.001)


EVENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"total_tokens":15,"completion_tokens":6}}\n\ndata: [DONE]\n\n'


@pytest.fixture
async def engine() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answers each second request with an error, and the others with three events of two tokens."""
    bodies: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                bodies.append(await reader.readexactly(length))
                if len(bodies) % 2 == 0:
                    writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy")
                    continue
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                for piece in (EVENT[:3], EVENT[3:] + EVENT[:8], EVENT[8:], USAGE):
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await asyncio.sleep(0.001)
                writer.write(b"0\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], bodies


def job(port: int, seconds: float, **fields: bool) -> Job:
    now = time.time()
    return Job(
        targets=[Target("127.0.0.1", port, "m"), Target("127.0.0.1", port, "n")],
        streams=[0, 1, 2],
        seed="a",
        begin=now,
        window_begin=now,
        window_end=now + seconds,
        max_tokens=8,
        prompt_words=3,
        **fields,
    )


async def test_the_load_counts_events_tokens_and_errors(engine: tuple[int, list[bytes]]) -> None:
    port, bodies = engine
    [counts] = await work(job(port, 0.6))
    assert counts.ended > 0
    assert (counts.ended_events, counts.ended_tokens) == (3 * counts.ended, 6 * counts.ended)
    assert counts.events >= 3 * counts.ended
    assert (counts.whole, counts.whole_tokens) == (counts.ended, counts.ended_tokens)
    assert 0 < counts.whole_s < 3 * 0.6
    assert 0 < min(counts.first_token_s) < 0.5
    assert counts.prompt_tokens == 9
    assert counts.error_count > 0
    assert counts.errors[0] == "status 503: busy"
    prompts = [json.loads(body)["messages"][0]["content"] for body in bodies]
    assert len(set(prompts)) == len(prompts), "no prefix cache answers"


async def test_streams_that_alternate_count_each_target(engine: tuple[int, list[bytes]]) -> None:
    port, bodies = engine
    slots = await work(job(port, 0.6, alternating=True))
    assert len(slots) == 2
    assert all(counts.ended + counts.error_count > 0 for counts in slots)
    asked = [json.loads(body)["model"] for body in bodies]
    assert abs(asked.count("m") - asked.count("n")) <= 3
