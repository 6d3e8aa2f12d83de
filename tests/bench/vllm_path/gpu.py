"""The comparison on a machine with a GPU, in steps of at most nine minutes.

    python -m tests.bench.vllm_path.gpu STEP --out DIR --models-dir DIR --tokenizer DIR [OPTION …]

Steps, in order of importance: `weights` writes the models; `small` and `big` measure a model of
135M and of 8B beside the `vllm serve` that is expected to be best, with a router before it;
`small-1` and `big-1` beside one with a single API server; `report` shows all that is in `--out`. A
step that runs again adds rounds. docs/gpu-benchmark.md says more. `--rehearse` runs a step with a
tiny model on the CPU. Other options are those of `python -m tests.bench.vllm_path`; they replace
those of the step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

from tests.bench.output import tell
from tests.bench.vllm_path import __main__ as comparison
from tests.bench.vllm_path import random_models, rows
from tests.bench.vllm_path.subjects import ROUTER

LIMIT_S = 500
"""A step begins no measurement after this time. Stopping takes up to half a minute."""
BEST = f"{rows.PLAIN}4"
ONE = f"{rows.PLAIN}1"
STREAMS = "256,512,64,16"


def engine_args(kv_cache_gb: int, share: float) -> str:
    """The same for every engine. Several are on the GPU at once, so each has its share of it."""
    return json.dumps(
        {
            "max_model_len": 2048,
            "kv_cache_memory_bytes": kv_cache_gb * 1_000_000_000,
            "gpu_memory_utilization": share,
            "compilation_config": {"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]},
        }
    )


COMMON = ("--accelerators=1", "--generators=6", "--prompt-words=160", "--max-tokens=256", f"--streams={STREAMS}")
SMALL = (*COMMON, "--model=135m", f"--engine-args={engine_args(20, 0.25)}", "--ramp-s=2", "--window-s=5")
# 512 streams of 480 tokens, 131 kB each.
BIG = (*COMMON, "--model=8b", f"--engine-args={engine_args(40, 0.45)}", "--ramp-s=4", "--window-s=7")
STEPS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "small": (SMALL, (rows.THROUGH, BEST, rows.DIRECT, ROUTER)),
    "big": (BIG, (rows.THROUGH, BEST, ROUTER)),
    "small-1": (SMALL, (rows.THROUGH, ONE)),
    "big-1": (BIG, (rows.THROUGH, ONE, rows.DIRECT)),
}
"""Options and subjects of each step that measures."""

REHEARSAL = (
    *("--model=tiny", "--accelerators=0", "--generators=2", "--prompt-words=20", "--max-tokens=32", "--streams=4,2"),
    *(f"--engine-args={json.dumps(comparison.CPU_ARGS)}", "--ramp-s=1", "--window-s=3", "--rounds=2"),
)


def words_of(step: str, given: Sequence[str], *, rehearse: bool) -> list[str]:
    """The options of a step for the comparison. Those that were given come last, so they win."""
    options, subjects = STEPS[step]
    if not any(word.startswith("--router-site") for word in given):
        tell("vllm-router is left out: --router-site does not say where its wheel is unpacked")
        subjects = [subject for subject in subjects if subject != ROUTER]
    if rehearse:
        options, subjects = REHEARSAL, [subject.replace(BEST, f"{rows.PLAIN}2") for subject in subjects]
    return ["--rounds=9", f"--limit-s={LIMIT_S}", f"--subjects={','.join(subjects)}", *options, *given]


def main(words: Sequence[str]) -> int:
    step, *given = words or ["--help"]
    allowed = ["weights", *STEPS, "report"]
    if step not in allowed:
        tell(f"{__doc__}")
        raise SystemExit(f"step: got {step!r}; allowed: {', '.join(allowed)}")
    rehearse = "--rehearse" in given
    given = [word for word in given if word != "--rehearse"]
    if step == "report":
        return comparison.main(["--report", *given])
    if step in STEPS:
        return comparison.main(words_of(step, given, rehearse=rehearse))
    for name in ["tiny"] if rehearse else [name for name in random_models.SHAPES if name != "tiny"]:
        comparison.source(comparison.parser().parse_args([f"--model={name}", *given]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
