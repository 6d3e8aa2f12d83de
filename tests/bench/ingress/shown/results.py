"""What was measured, and the arithmetic of medians, spreads and ratios. Pure.

A ratio is taken within each round, of two measurements that were made one after the other, and then
the median over the rounds: what else the machine does weighs on both alike.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence

import msgspec

from tests.bench.ingress import answers, plan
from tests.bench.ingress.wrk import Load


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement: a subject under the load of a case."""

    round: int
    subject: str
    case: str
    answer: str
    load: Load
    cpu_s: float
    """CPU time of the subject's processes."""
    memory_bytes: int
    """Of the subject's processes, after the load."""
    engine_cpu_s: float
    """CPU time of the mock engine."""
    wrk_cpu_s: float
    """CPU time of the load generator."""

    @property
    def requests_per_s(self) -> float:
        """Complete answers, also streams, in a second."""
        return self.load.requests / self.load.duration_s

    @property
    def chunks_per_s(self) -> float:
        """Events with text in a second; 0 if the answer is not streamed."""
        return self.requests_per_s * answers.chunks_of(self.answer)

    @property
    def cpu_s_per_1000(self) -> float:
        """CPU seconds for 1,000 requests; infinite if none was answered."""
        return self.cpu_s / self.load.requests * 1000 if self.load.requests else float("inf")


class Spread(msgspec.Struct, frozen=True):
    """A median over rounds, with the lowest and the highest."""

    median: float
    lowest: float
    highest: float

    def text(self, digits: int = 2) -> str:
        """As it is printed."""
        return f"{self.median:,.{digits}f} [{self.lowest:,.{digits}f}, {self.highest:,.{digits}f}]"


Measure = Callable[[Sample], float]


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of values; None: there are none."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


class Results:
    """All samples of a run."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self.samples = tuple(samples)
        self._found = {(sample.case, sample.subject, sample.round): sample for sample in self.samples}
        self._rounds = sorted({sample.round for sample in self.samples})

    def cases(self) -> list[str]:
        """The cases that were measured, in the order of the plan."""
        measured = {sample.case for sample in self.samples}
        return [case.name for case in plan.CASES if case.name in measured]

    def subjects(self, case: str) -> list[str]:
        """The subjects of a case, in the order of the plan."""
        measured = {sample.subject for sample in self.samples if sample.case == case}
        return [name for name in plan.SUBJECTS if name in measured]

    def of(self, case: str, subject: str) -> list[Sample]:
        """The samples of a subject in a case, by round."""
        return [found for number in self._rounds if (found := self._found.get((case, subject, number))) is not None]

    def values(self, case: str, subject: str, measure: Measure) -> list[float]:
        """A measure of a subject in a case, by round."""
        return [measure(sample) for sample in self.of(case, subject)]

    def pairs(self, one: tuple[str, str], other: tuple[str, str]) -> list[tuple[Sample, Sample]]:
        """The samples of two (case, subject) in the rounds that have both and answers of both."""
        found = []
        for number in self._rounds:
            pair = self._found.get((*one, number)), self._found.get((*other, number))
            if pair[0] is not None and pair[1] is not None and pair[0].load.requests and pair[1].load.requests:
                found.append((pair[0], pair[1]))
        return found

    def ratios(self, one: tuple[str, str], other: tuple[str, str], measure: Measure) -> list[float]:
        """How many times the measure of the other has one, by round; each is (case, subject)."""
        pairs = [(measure(above), measure(below)) for above, below in self.pairs(one, other)]
        return [above / below for above, below in pairs if below > 0]

    def added(self, case: str, subject: str, measure: Measure) -> list[float]:
        """What a subject adds to the engine asked directly, by round."""
        pairs = self.pairs((case, subject), (case, plan.DIRECT))
        return [measure(through) - measure(direct) for through, direct in pairs]

    def errors(self) -> list[Sample]:
        """Samples with an answer that was not as it should be, or with none at all."""
        return [sample for sample in self.samples if sample.load.errors or not sample.load.requests]
