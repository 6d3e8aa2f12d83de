"""What was measured, and what it says: medians, spreads, and ratios within a round."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from tests.bench.vllm_path.load import Counts

THROUGH, DIRECT, PLAIN = "through", "direct", "plain"
"""Names of subjects. Those of `vllm serve` begin with `PLAIN`, and go on with its API servers."""

_POOLED_ABOVE_PERCENT = 90


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of one subject."""

    model: str
    subject: str
    streams: int
    round: str
    """Measurements of one round followed each other, so their ratios mean something."""
    tokens_per_s: float
    first_token_s: Sequence[float]
    ended: int
    tokens_per_event: float
    prompt_tokens: int
    error_count: int
    errors: Sequence[str]
    cpu_cores: Mapping[str, float]
    """CPU seconds per second of the subject's processes, by what they are for; `load`: of the
    busiest process of the load generator."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured."""

    model: str
    subject: str
    streams: int
    round: str
    window_s: float
    alternating: bool = False
    """Each stream asked all subjects in turns."""


def row_of(case: Case, counts: Counts, cpu_cores: Mapping[str, float]) -> Row:
    """The row of a measurement.

    A subject that was asked alone has the tokens of the window. vLLM sends several tokens in one
    event when it is ahead of the reader, so these are the events within the window, times the
    tokens for each event in the answers that ended. A subject that was asked in turns with others
    has the tokens that its answers would have made if all streams had asked only it.

    Raises:
        ValueError: no answer ended, and there was no error.
    """
    ended = counts.whole if case.alternating else counts.ended
    if not ended and not counts.error_count:
        where = f"{case.subject}, {case.streams} streams"
        raise ValueError(f"{where}: no answer ended; a longer window or fewer tokens are needed")
    tokens_per_event = counts.ended_tokens / counts.ended_events if counts.ended_events else 0.0
    tokens_per_s = counts.events * tokens_per_event / case.window_s
    if case.alternating:
        tokens_per_s = case.streams * counts.whole_tokens / counts.whole_s if counts.whole_s else 0.0
    return Row(
        model=case.model,
        subject=case.subject,
        streams=case.streams,
        round=case.round,
        tokens_per_s=tokens_per_s,
        first_token_s=counts.first_token_s,
        ended=ended,
        tokens_per_event=tokens_per_event,
        prompt_tokens=counts.prompt_tokens,
        error_count=counts.error_count,
        errors=counts.errors,
        cpu_cores={**cpu_cores, "load": counts.cpu_cores},
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent of all do not exceed; NaN: there are none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def pooled(rows: Sequence[Row], percent: float) -> float:
    """A percentile of the times to the first token of all rows, in seconds."""
    return percentile([seconds for row in rows for seconds in row.first_token_s], percent)


class Spread(msgspec.Struct, frozen=True):
    """A median, with the lowest and the highest."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        """None: there are no values."""
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return None
        return cls(statistics.median(known), min(known), max(known), len(known))

    def shown(self, digits: int) -> str:
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


Measure = Callable[[Row], float]


def tokens_per_s(row: Row) -> float:
    return row.tokens_per_s


def first_token(percent: float) -> Measure:
    """A percentile of the time to the first token of one row."""
    return lambda row: percentile(row.first_token_s, percent)


def ratio(rows: Sequence[Row], base: Sequence[Row], measure: Measure) -> Spread | None:
    """The ratios of a measure in the rounds that both have; None: there are none."""
    base_by_round = {row.round: measure(row) for row in base}
    return Spread.of(measure(row) / base_by_round[row.round] for row in rows if base_by_round.get(row.round, 0.0) > 0)


def first_token_ratio(rows: Sequence[Row], base: Sequence[Row], percent: float) -> Spread | None:
    """The ratios of the times to the first token in the rounds that both have.

    A round has too few requests for its 99th percentile to mean much. So above the 90th, that of
    all rounds together stands in place of the median.
    """
    found = ratio(rows, base, first_token(percent))
    if found is None or percent <= _POOLED_ABOVE_PERCENT:
        return found
    common = {row.round for row in rows} & {row.round for row in base}
    of, by = (pooled([row for row in group if row.round in common], percent) for group in (rows, base))
    return Spread(of / by, found.low, found.high, found.count)


class Table:
    """The rows, by model, streams and subject."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[tuple[str, int, str], list[Row]] = {}
        for row in rows:
            self._rows.setdefault((row.model, row.streams, row.subject), []).append(row)

    @property
    def cases(self) -> list[tuple[str, int]]:
        """Models and numbers of streams."""
        return sorted({(model, streams) for model, streams, _ in self._rows})

    def subjects(self, model: str, streams: int) -> list[str]:
        return [subject for one, count, subject in self._rows if (one, count) == (model, streams)]

    def of(self, model: str, streams: int, subject: str) -> list[Row]:
        return self._rows.get((model, streams, subject), [])

    def best_plain(self, model: str, streams: int) -> str | None:
        """The `vllm serve` with the most tokens per second; None: it was not measured."""
        plain = [subject for subject in self.subjects(model, streams) if subject.startswith(PLAIN)]
        return max(plain, key=lambda subject: self._median(model, streams, subject), default=None)

    def _median(self, model: str, streams: int, subject: str) -> float:
        return statistics.median(row.tokens_per_s for row in self.of(model, streams, subject))

    def verdicts(self) -> list[str]:
        """Whether the path holds what it promises, a line for each promise."""
        lines = []
        for model, streams in self.cases:
            through = self.of(model, streams, THROUGH)
            plain = self.best_plain(model, streams)
            for base, least, most in ((DIRECT, 0.98, 1 / 0.98), (plain, 1.0, 1.05)):
                if base is not None and through and (rows := self.of(model, streams, base)):
                    where = f"{model}, {streams} streams, through / {base}"
                    lines += _compared(where, through, rows, least, most)
        for model in sorted({model for model, _ in self.cases}):
            counts = [streams for one, streams in self.cases if one == model and self.of(model, streams, THROUGH)]
            medians = [self._median(model, streams, THROUGH) for streams in counts]
            if len(counts) > 1:
                shown = ", ".join(f"{streams}: {median:.0f}" for streams, median in zip(counts, medians, strict=True))
                held = all(more >= fewer for fewer, more in itertools.pairwise(medians))
                lines.append(f"{_word(held)} {model}: more streams, not fewer tokens/s ({shown})")
        return lines


def _compared(where: str, rows: Sequence[Row], base: Sequence[Row], least: float, most: float) -> list[str]:
    lines = []
    tokens = ratio(rows, base, tokens_per_s)
    if tokens is not None:
        lines.append(f"{_word(tokens.median >= least)} {where}: tokens/s {tokens.shown(3)}, at least {least:.2f}")
    for percent in (50, 99):
        first = first_token_ratio(rows, base, percent)
        if first is not None:
            what = f"time to first token p{percent} {first.shown(3)}"
            lines.append(f"{_word(first.median <= most)} {where}: {what}, at most {most:.2f}")
    return lines


def _word(held: bool) -> str:
    return "holds " if held else "MISSED"


def append(path: Path, row: Row) -> None:
    """Keep a row. The file has one in each line."""
    with path.open("ab") as file:
        file.write(msgspec.json.encode(row) + b"\n")


def read(path: Path) -> list[Row]:
    """All rows that were kept."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Row) for line in path.read_bytes().splitlines()]
