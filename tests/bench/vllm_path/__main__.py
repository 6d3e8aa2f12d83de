"""Compare real vLLM through Broadsheet with the same replica asked directly, and with others.

    python -m tests.bench.vllm_path [--model smollm2] [--subjects through,direct] [--streams 1,8]

Subjects: `through` (the ingress), `direct` (the engine replica behind it), `plainN` (`vllm serve`
with N API servers), `router` (vllm-router before the last `plainN`). All engines have the same
arguments. They run at the same time, and are asked in turns: a round asks each once with each
number of streams, in another order than the round before. With `--alternating`, a single stream
asks all of them in turns, request by request; what disturbs one then disturbs all. Ratios are those
within a round. Every request has a prompt of its own, or the prefix cache would answer.

Rows are added to `rows.jsonl` in `--out`, so a run can be continued by another; the report is about
all of them. Exits with 1 if a request failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from broadsheet.demo.prepare_model import default_cache_dir, prepare_model
from tests.bench.output import tell
from tests.bench.vllm_path import random_models, report, rows
from tests.bench.vllm_path.generators import Generators, Shape
from tests.bench.vllm_path.load import Target
from tests.bench.vllm_path.subjects import ROUTER, Engine, Plain, Router, Subject, broadsheet, cpu_during

SETTLE_S = 0.7
"""After a measurement: what was broken off leaves the engine."""
ROWS = "rows.jsonl"
_SUBJECT = re.compile(rf"{rows.THROUGH}|{rows.DIRECT}|{rows.PLAIN}[1-9]\d?|{ROUTER}")
CPU_ARGS: Mapping[str, object] = {"max_model_len": 1024, "kv_cache_memory_bytes": 500_000_000, "enforce_eager": True}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = made.add_argument
    add("--model", default="smollm2", help=f"smollm2, or random weights: {', '.join(random_models.SHAPES)}")
    add("--subjects", type=_subjects, default=["through", "direct"])
    add("--streams", type=_numbers, default=[1, 8])
    add("--rounds", type=int, default=12)
    add("--limit-s", type=float, default=0.0, help="begin no measurement after so long; 0: no limit")
    add("--ramp-s", type=float, default=1.0)
    add("--window-s", type=float, default=8.0)
    add("--alternating", action="store_true", help="a single stream asks all subjects in turns; for noisy machines")
    add("--max-tokens", type=int, default=16)
    add("--prompt-words", type=int, default=40)
    add("--generators", type=int, default=1, help="processes of the load generator")
    add("--accelerators", type=int, default=0)
    add("--simulated", action="store_true", help="Broadsheet's SIMULATED engine: to try the rest without vLLM")
    add("--engine-args", type=json.loads, default=CPU_ARGS, help="vLLM's, for every engine, as JSON")
    add("--own-engine-args", type=json.loads, default={}, help="more of them, for Broadsheet's engine only")
    add("--data-plane-args", type=shlex.split, default=[], help="for the data plane's command")
    add("--models-dir", type=Path, default=Path(tempfile.gettempdir()) / "broadsheet-bench-models")
    add("--tokenizer", type=Path, help="a model's directory, for random weights; default: SmolLM2's")
    add("--router-site", type=Path, help="where the wheel of vllm-router is unpacked")
    add("--out", type=Path, help="for rows and report; a run into the same directory adds to it; default: a new one")
    add("--report", action="store_true", help="only show what was measured before")
    return made


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(text: str) -> list[int]:
    return [int(word) for word in _words(text)]


def _subjects(text: str) -> list[str]:
    names = _words(text)
    for name in names:
        if not _SUBJECT.fullmatch(name):
            allowed = f"{rows.THROUGH}, {rows.DIRECT}, {rows.PLAIN}N, {ROUTER}"
            raise argparse.ArgumentTypeError(f"got {name!r}; allowed: {allowed}")
    return names


def run(given: argparse.Namespace, began: float) -> None:
    """Start the subjects, and ask them."""
    directory = Path(tempfile.mkdtemp(prefix="bs-vllm-"))
    tell(f"{os.cpu_count()} cores; logs in {directory}; rows in {given.out / ROWS}")
    engine = Engine(
        source=directory if given.simulated else source(given),
        args=given.engine_args,
        own_args=given.own_engine_args,
        accelerators=given.accelerators,
        simulated=given.simulated,
    )
    with contextlib.ExitStack() as stack:
        subjects = start(given, directory, engine, stack)
        with Generators(given.generators) as generators:
            measure(given, generators, subjects, began)


def source(given: argparse.Namespace) -> Path:
    if given.model in random_models.SHAPES:
        tokenizer = given.tokenizer or prepare_model(default_cache_dir(), tell)
        return random_models.write(given.models_dir, given.model, tokenizer)
    if given.model != "smollm2":
        raise SystemExit(f"--model: got {given.model!r}; allowed: smollm2, {', '.join(random_models.SHAPES)}")
    return prepare_model(default_cache_dir(), tell)


def start(given: argparse.Namespace, directory: Path, engine: Engine, stack: contextlib.ExitStack) -> list[Subject]:
    """The subjects, in the order in which they are wanted. Their engines start at the same time."""
    plain = []
    for name in given.subjects:
        if name.startswith(rows.PLAIN):
            plain.append(Plain(directory, engine, int(name.removeprefix(rows.PLAIN)), given.models_dir))
            stack.callback(plain[-1].stop)
    found: dict[str, Subject] = {}
    if {rows.THROUGH, rows.DIRECT} & set(given.subjects):
        own = stack.enter_context(broadsheet(directory, engine, given.data_plane_args))
        found |= {subject.name: subject for subject in own}
    for server in plain:
        found[server.name] = server.up()
    if ROUTER in given.subjects:
        if not plain or given.router_site is None:
            raise SystemExit("router: needs a plainN among the subjects, and --router-site")
        router = Router(directory, found[plain[-1].name], given.router_site)
        stack.callback(router.stop)
        found[ROUTER] = router.up()
    return [found[name] for name in given.subjects]


def measure(given: argparse.Namespace, generators: Generators, subjects: Sequence[Subject], began: float) -> None:
    """Ask the subjects, round after round."""
    run_id = secrets.token_hex(3)
    one_s = given.ramp_s + given.window_s + SETTLE_S
    for subject in subjects:  # kernels and caches are warm afterwards
        generators.measure(subject.targets, _shape(given, max(given.streams), 0.5), lambda *_: None)
    for number in range(given.rounds):
        for streams in given.streams:
            groups = groups_of(subjects, in_turns=given.alternating and streams == 1)
            if given.limit_s and time.monotonic() - began + len(groups) * one_s > given.limit_s:
                tell("  the time is over")
                return
            for position in range(len(groups)):
                time.sleep(SETTLE_S)
                group = groups[(position + number) % len(groups)]
                for row in measure_once(given, generators, group, streams, f"{run_id}-{number}"):
                    rows.append(given.out / ROWS, row)
                    _tell(row)


def groups_of(subjects: Sequence[Subject], *, in_turns: bool) -> list[list[Subject]]:
    """Who is asked at the same time: all, or one after the other.

    Several streams never ask several subjects at once. A request that arrives a moment after its
    neighbours misses the engine's next step, and then waits for a whole one: the slower way would
    look as much slower as a step is long.
    """
    return [list(subjects)] if in_turns else [[subject] for subject in subjects]


def measure_once(
    given: argparse.Namespace, generators: Generators, group: Sequence[Subject], streams: int, round_id: str
) -> list[rows.Row]:
    """Ask a subject, or several in turns. Returns a row for each."""
    processes = {name: processes for subject in group for name, processes in subject.processes.items()}
    measured = generators.measure(
        _targets(group),
        _shape(given, streams, given.ramp_s),
        cpu_during(processes),
        alternating=len(group) > 1,
    )
    return [
        rows.row_of(
            rows.Case(
                model="simulated" if given.simulated else given.model,
                subject=subject.name,
                streams=streams,
                round=round_id,
                window_s=given.window_s,
                alternating=len(group) > 1,
            ),
            counts,
            measured.seen,
        )
        for subject, counts in zip(group, measured.counts, strict=True)
    ]


def _targets(group: Sequence[Subject]) -> list[Target]:
    """Of one subject all, of several one each."""
    return list(group[0].targets) if len(group) == 1 else [subject.targets[0] for subject in group]


def _shape(given: argparse.Namespace, streams: int, ramp_s: float) -> Shape:
    return Shape(
        streams=streams,
        ramp_s=ramp_s,
        window_s=given.window_s,
        max_tokens=given.max_tokens,
        prompt_words=given.prompt_words,
    )


def _tell(row: rows.Row) -> None:
    p50, p99 = (rows.percentile(row.first_token_s, percent) * 1000 for percent in (50, 99))
    cpu = ", ".join(f"{name} {cores:.2f}" for name, cores in row.cpu_cores.items())
    tell(
        f"  {row.model} {row.round} {row.streams:4} {row.subject:8} {row.tokens_per_s:9.1f} tokens/s, first token "
        f"p50 {p50:.1f} p99 {p99:.1f} ms of {len(row.first_token_s)}; cores: {cpu}; {row.error_count} errors"
    )


def main(words: Sequence[str] | None = None) -> int:
    began = time.monotonic()
    given = parser().parse_args(words)
    if given.out is None:
        given.out = Path(tempfile.mkdtemp(prefix="bs-vllm-rows-"))
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.report:
        run(given, began)
    return 0 if report.show(rows.read(given.out / ROWS), given.out) else 1


if __name__ == "__main__":
    sys.exit(main())
