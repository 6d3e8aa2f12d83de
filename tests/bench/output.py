"""How the benchmarks print what they have measured."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence

from rich.table import Table


def spread(samples: Sequence[float], unit: str, digits: int = 2) -> str:
    """The median, with the lowest and the highest in brackets."""
    return f"{statistics.median(samples):.{digits}f} {unit} ({min(samples):.{digits}f} to {max(samples):.{digits}f})"


def percentiles(samples: Sequence[float], unit: str, digits: int = 1) -> str:
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    return f"p50 {cuts[49]:.{digits}f} {unit}, p99 {cuts[98]:.{digits}f} {unit}"


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


Samples = tuple[str, Mapping[str, Sequence[float]]]
"""What was measured, and how long each time took, in seconds, by the number of models."""


def add_comparison(table: Table, whole: Samples, part: Samples) -> None:
    """Add rows that compare few with many models: the whole time, and a part of it."""
    (what, whole_s), (part_what, part_s) = whole, part
    for name in whole_s:
        table.add_row(f"{what}, {name} models", spread(whole_s[name], "s"))
        table.add_row(f"  {part_what}", spread(part_s[name], "s"))
    few, many = map(statistics.median, whole_s.values())
    table.add_row("  ratio of medians", f"{many / few:.2f} (≤ 1.5 wanted)")
