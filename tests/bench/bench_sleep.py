"""What sleep saves: time to the first token from zero, from sleep and awake, and memory meanwhile.

    python -m tests.bench.bench_sleep [--rounds 5] [--engine VLLM|SIMULATED] [--billions 0]

Both planes run on this machine, with an accelerator for VLLM. The same model is registered twice,
with `scaling.idle` ZERO and SLEEP. It is asked again and again, each time when it is gone or
asleep. The answer is streamed and greedy, and the caller times its first token. The answers of the
base model and of an adapter must be the same after each sleep as before. In the end the sleeper is
evicted, because the other model needs its accelerator.

The model is SmolLM2-135M with the demo's adapter. With `--billions N` it is a model of about N
billion parameters in bfloat16 with made-up weights (vLLM's `load_format: dummy`), because sleep and
wake take longer with size. Making weights up is quicker than reading them, so its start from zero
is a lower bound.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from broadsheet import Client
from broadsheet.demo import ADAPTER_DIR
from broadsheet.demo.prepare_model import default_cache_dir, prepare_model
from tests.e2e.stack import Stack, until

IDLE_S = 2
START_S = 300.0
ENGINE_ARGS: Mapping[str, object] = {"max_model_len": 1024, "gpu_memory_utilization": 0.8, "enforce_eager": True}
QUESTION = "What is the capital of France?"


@dataclass(frozen=True)
class Subject:
    """A model that is measured. It is registered twice."""

    title: str
    source: Path
    engine_args: Mapping[str, object]
    adapter: Path | None = None


@dataclass(frozen=True)
class Answer:
    text: str
    first_token_s: float


def ask(stack: Stack, model: str) -> Answer:
    """Ask for a streamed answer.

    Raises:
        openai.OpenAIError: the request failed.
        RuntimeError: the answer is empty.
    """
    began, first, text = time.monotonic(), None, ""
    with stack.openai().chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=24, stream=True
    ) as stream:
        for event in stream:
            delta = event.choices[0].delta.content if event.choices else None
            if delta and first is None:
                first = time.monotonic() - began
            text += delta or ""
    if first is None:
        raise RuntimeError(f"{model} answered nothing")
    return Answer(text, first)


def register(client: Client, model_id: str, idle: str, subject: Subject, engine: str) -> None:
    spec: dict[str, object] = {
        "scaling": {"downscale_to_zero_delay": f"{IDLE_S}s", "idle": idle},
        "lora": {"max_adapters": 2, "max_rank": 8} if subject.adapter else None,
    }
    if engine == "VLLM":
        spec["source"] = {"uri": subject.source.as_uri()}
        spec["engine"] = {"kind": "VLLM", "args": {**ENGINE_ARGS, **subject.engine_args}}
        spec["resources"] = {"accelerators": 1}
    else:
        spec["engine"] = {"kind": "SIMULATED", "args": {"start_up_s": 2, "wake_up_s": 0.2}}
    client.register_model(model_id, spec={name: value for name, value in spec.items() if value is not None})
    if subject.adapter is not None:
        client.register_adapter(model_id, "pirate", source=subject.adapter)
    client.wait_until_serving(model_id, timeout_s=60)


def accelerator_memory_mib() -> int | None:
    """How much of the first accelerator's memory is in use; None: there is no accelerator."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0])


def made_up_model(directory: Path, billions: float, tokenizer: Path) -> Path:
    """A Llama configuration of about that size, without weights, with another model's tokenizer."""
    layers, hidden = 32, max(512, round(4096 * (billions / 6.6) ** 0.5 / 512) * 512)
    made = directory / f"made-up-{billions:g}b"
    made.mkdir()
    for file in tokenizer.iterdir():
        if "token" in file.name or file.suffix == ".jinja":
            shutil.copy(file, made)
    config = json.loads((tokenizer / "config.json").read_text())
    config |= {
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 128,
        "num_key_value_heads": hidden // 128,
        "head_dim": 128,
    }
    (made / "config.json").write_text(json.dumps(config))
    return made


def status_reason(client: Client, model_id: str) -> str:
    return client.get_model(model_id).statuses[0].status.reason


def measure(stack: Stack, client: Client, subject: Subject, engine: str, rounds: int) -> list[Sequence[str]]:
    """The rows of one subject."""
    register(client, "zero", "ZERO", subject, engine)
    from_zero = []
    for _ in range(rounds):
        from_zero.append(ask(stack, "zero").first_token_s)
        until(lambda: stack.engine_replicas("zero") == [], START_S, "the replica at zero to go")
    at_zero_mib = accelerator_memory_mib()

    register(client, "sleeper", "SLEEP", subject, engine)
    names = ["sleeper", *(["sleeper:pirate"] if subject.adapter else [])]
    ask(stack, "sleeper")
    before = {name: ask(stack, name).text for name in names}
    awake = [ask(stack, "sleeper").first_token_s for _ in range(rounds)]
    awake_mib = accelerator_memory_mib()
    replicas = stack.engine_replicas("sleeper")
    from_sleep, asleep_mib = [], None
    for number in range(rounds):
        until(lambda: status_reason(client, "sleeper") == "ASLEEP", START_S, "the model to sleep")
        asleep_mib = accelerator_memory_mib()
        woken = {name: ask(stack, name) for name in (names if number % 2 == 0 else reversed(names))}
        from_sleep.append(next(iter(woken.values())).first_token_s)
        after = {name: answer.text for name, answer in woken.items()}
        if after != before:
            raise RuntimeError(f"the answers differ after a sleep: {after} instead of {before}")
    if stack.engine_replicas("sleeper") != replicas:
        raise RuntimeError("a replica was replaced")

    until(lambda: status_reason(client, "sleeper") == "ASLEEP", START_S, "the model to sleep")
    after_eviction_s = ask(stack, "zero").first_token_s
    evicted = not stack.engine_replicas("sleeper") if engine == "VLLM" else None
    for model_id in ("zero", "sleeper"):
        client.delete_model(model_id, force=True)
    until(lambda: not any("zero" in name or "sleeper" in name for name in stack.applications()), START_S, "both to go")
    return [
        (subject.title, "from zero", _spread(from_zero), _mib(at_zero_mib)),
        (
            "",
            f"from sleep ({statistics.median(from_zero) / statistics.median(from_sleep):.0f} times sooner)",
            _spread(from_sleep),
            _mib(asleep_mib),
        ),
        ("", "awake", _spread(awake), _mib(awake_mib)),
        (
            "",
            "from zero, when a sleeper has to be evicted",
            f"{after_eviction_s:.2f} s" + ("" if evicted in (None, True) else ", and it was NOT evicted"),
            "",
        ),
    ]


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


def _mib(memory: int | None) -> str:
    return "" if memory is None else f"{memory:,} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", choices=["VLLM", "SIMULATED"], default="VLLM")
    parser.add_argument("--billions", type=float, default=0.0, help="a made-up model of so many parameters instead")
    arguments = parser.parse_args()
    screen = Console(width=140)
    directory = Path(tempfile.mkdtemp(prefix="bs-sleep-"))
    screen.print(f"{os.cpu_count()} cores; logs in {directory}", highlight=False)
    smollm2 = prepare_model(default_cache_dir(), screen.print)
    subject = Subject("SmolLM2-135M", smollm2, {}, ADAPTER_DIR)
    if arguments.billions:
        made = made_up_model(directory, arguments.billions, smollm2)
        subject = Subject(f"{arguments.billions:g}B, made up", made, {"load_format": "dummy"})
    table = Table(
        "model", "asked", f"time to first token, median of {arguments.rounds}", "accelerator memory taken before"
    )
    stack = Stack(directory)
    try:
        stack.start()
        with stack.client() as client:
            for row in measure(stack, client, subject, arguments.engine, arguments.rounds):
                table.add_row(*row)
    finally:
        stack.stop()
    screen.print(table)


if __name__ == "__main__":
    main()
