"""Compares verdicts on random adapter directories, and prints what no rule explains."""

from __future__ import annotations

import asyncio
import collections
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from broadsheet.v1 import model_pb2
from controlplane import errors
from controlplane.adapters.classification import TASK_DEFAULTS
from controlplane.adapters.verification import AdapterVerifier
from tests.adapter_fuzz.directories import SEEDS, write_llama
from tests.adapter_fuzz.mutations import Case, random_case
from tests.adapter_fuzz.rules import LEFT_TO_THE_ENGINE, STRICTER, explanation
from tests.adapter_fuzz.vllm_loader import RANK_MAX, Loaded, VllmLoader, task_defaults

COUNT = 20_000
ENGINE_ARGS: Sequence[Mapping[str, str]] = ({}, {"convert": "classify"})
"""The base generates text, and it classifies."""
_SHOWN_MAX = 20


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What both sides say about the same files."""

    refusal: str
    """Of registration. Empty: it takes them."""
    loaded: Loaded

    @property
    def outcome(self) -> str:
        """`both take`, `both refuse`, or the rule of a disagreement; empty: no rule explains it."""
        if bool(self.refusal) != self.loaded.in_full:
            return "both refuse" if self.refusal else "both take"
        if self.refusal:
            rule = explanation(STRICTER, self.refusal)
        else:
            rule = explanation(LEFT_TO_THE_ENGINE, self.loaded.error or f"passed over: {self.loaded.unmatched}")
        return f"{'stricter' if self.refusal else 'left to the engine'}: {rule.name}" if rule else ""


class Comparison:
    """Both sides, for one base model as one engine serves it."""

    def __init__(self, base: Path, scratch: Path, **engine_args: str) -> None:
        """
        Args:
            base: Directory of the base model.
            scratch: Adapters are written below it.
            engine_args: Arguments of the engine that serves it.
        """
        self._loader = VllmLoader(base, **engine_args)
        self._spec = model_pb2.ModelSpec(
            source=model_pb2.Source(uri=base.as_uri()), lora=model_pb2.Lora(max_rank=RANK_MAX)
        )
        self._spec.engine.kind = model_pb2.Engine.KIND_VLLM
        self._spec.engine.args.update(engine_args)
        self._verifier = AdapterVerifier(size_bytes_max=1 << 30, allowed_sources=())
        self._directory = scratch / "adapter"

    async def verdicts(self, case: Case) -> Verdicts | None:
        """What both sides say. None: the case cannot be written."""
        try:
            case.draft().write(self._directory)
        except (UnicodeEncodeError, OverflowError):
            return None
        try:
            await self._verifier.verify(model_pb2.Source(uri=self._directory.as_uri()), self._spec)
            refusal = ""
        except errors.DomainError as error:
            refusal = error.message
        verdicts = Verdicts(refusal, self._loader.load(self._directory))
        shutil.rmtree(self._directory)
        return verdicts

    async def smallest(self, case: Case) -> Case:
        """The case with the fewest of its mutations that no rule explains either."""
        for count in range(1, len(case.steps)):
            for steps in itertools.combinations(case.steps, count):
                found = await self.verdicts(Case(case.start, steps))
                if found is not None and not found.outcome:
                    return Case(case.start, steps)
        return case

    def close(self) -> None:
        self._verifier.close()


async def compare(comparison: Comparison, cases: Iterator[Case]) -> tuple[collections.Counter[str], Sequence[str]]:
    """How often each outcome was found, and the disagreements that no rule explains."""
    outcomes: collections.Counter[str] = collections.Counter()
    unexplained: list[str] = []
    for case in cases:
        found = await comparison.verdicts(case)
        if found is None:
            continue
        outcomes[found.outcome or "UNEXPLAINED"] += 1
        if not found.outcome and len(unexplained) < _SHOWN_MAX:
            smallest = await comparison.smallest(case)
            found = await comparison.verdicts(smallest)
            unexplained.append(
                f"{smallest}\n    registration: {found and found.refusal!r}\n    vLLM: {found and found.loaded}"
            )
    return outcomes, unexplained


def report(base: Path, scratch: Path, engine_args: Mapping[str, str], *, count: int, seed: int) -> bool:
    """Compare `count` cases, and print what was found. Returns whether rules explain all of it."""
    comparison = Comparison(base, scratch, **engine_args)
    random = Random(seed)
    cases = itertools.chain((Case(start, ()) for start in SEEDS), (random_case(random) for _ in range(count)))
    began_s = time.monotonic()
    outcomes, unexplained = asyncio.run(compare(comparison, cases))
    comparison.close()
    lines = (f"  {number:6} {outcome}\n" for outcome, number in outcomes.most_common())
    sys.stdout.write(f"seed {seed}, engine arguments {engine_args}, {time.monotonic() - began_s:.0f} s\n")
    sys.stdout.write("".join(lines) + "".join(f"  {found}\n" for found in unexplained))
    if outcomes["both take"] * 20 < count:
        sys.stdout.write("  Too few adapters are taken: the mutations break everything.\n")
        return False
    return not unexplained


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else Random().randrange(1_000_000)
    with tempfile.TemporaryDirectory() as scratch:
        base = write_llama(Path(scratch) / "base")
        explained = [
            report(base, Path(scratch), engine_args, count=count // len(ENGINE_ARGS), seed=seed)
            for engine_args in ENGINE_ARGS
        ]
    if task_defaults() != TASK_DEFAULTS:
        sys.stdout.write("The endings of architectures in controlplane.adapters are not those of vLLM any more.\n")
        return 1
    return 0 if all(explained) else 1


if __name__ == "__main__":
    sys.exit(main())
