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


def row_of(
    counts: Counts,
    window_s: float,
    cpu_cores: Mapping[str, float],
    *,
    model: str,
    subject: str,
    streams: int,
    round_id: str,
) -> Row:
    """The row of a measurement.

    vLLM sends several tokens in one event when it is ahead of the reader, so events are counted
    within the window, and tokens for each event in the answers that ended.

    Raises:
        ValueError: no answer ended, and there was no error.
    """
    if not counts.ended and not counts.error_count:
        raise ValueError(f"{subject}, {streams} streams: no answer ended; a longer window or fewer tokens are needed")
    tokens_per_event = counts.ended_tokens / counts.ended_events if counts.ended_events else 0.0
    return Row(
        model=model,
        subject=subject,
        streams=streams,
        round=round_id,
        tokens_per_s=counts.events * tokens_per_event / window_s,
        first_token_s=counts.first_token_s,
        ended=counts.ended,
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
        first = ratio(rows, base, first_token(percent))
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
