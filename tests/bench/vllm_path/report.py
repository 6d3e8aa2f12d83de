"""The report: a table for people, and the same as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as ScreenTable

from tests.bench.vllm_path.rows import (
    DIRECT,
    Row,
    Spread,
    Table,
    first_token,
    first_token_ratio,
    pooled,
    ratio,
    tokens_per_s,
)

WIDTH = 300
"""Wide enough that no row is broken: a log of it can be searched."""

_TITLES = (
    *("model", "streams", "asked", "n", "tokens/s", "first token p50 ms", "p99 ms"),
    *("/direct: tokens/s", "p50", "p99", "/best plain: tokens/s", "p50", "p99", "CPU cores"),
)


def show(rows: Sequence[Row], out: Path) -> bool:
    """Print the table and write `report.json`. Returns whether there was no error."""
    table = Table(rows)
    screen = ScreenTable(box=None)
    for title in _TITLES:
        screen.add_column(title, no_wrap=True)
    lines = []
    for model, streams in table.cases:
        for subject in table.subjects(model, streams):
            line = _line(table, model, streams, subject)
            lines.append(line)
            screen.add_row(*line.values())
        screen.add_row()
    console = Console(width=WIDTH)
    console.print(screen)
    verdicts = table.verdicts()
    for verdict in verdicts:
        console.print(verdict, highlight=False, markup=False)
    errors = [
        f"{row.model} {row.subject} {row.streams}: {row.error_count} errors, {row.errors[:1]}"
        for row in rows
        if row.error_count
    ]
    for error in errors:
        console.print(f"ERRORS {error}", highlight=False, markup=False)
    (out / "report.json").write_text(json.dumps({"table": lines, "verdicts": verdicts, "errors": errors}, indent=1))
    return not errors


def _line(table: Table, model: str, streams: int, subject: str) -> dict[str, str]:
    rows = table.of(model, streams, subject)
    direct = table.of(model, streams, DIRECT) if subject != DIRECT else []
    plain = table.best_plain(model, streams)
    best = table.of(model, streams, plain) if plain is not None and plain != subject else []
    used = {name: statistics.median(row.cpu_cores.get(name, 0.0) for row in rows) for name in rows[0].cpu_cores}
    p50 = Spread.of(first_token(50)(row) * 1000 for row in rows)
    return {
        "model": model,
        "streams": str(streams),
        "subject": subject,
        "rounds": str(len(rows)),
        "tokens_per_s": _shown(Spread.of(row.tokens_per_s for row in rows), 0 if rows[0].tokens_per_s > 1000 else 1),
        "first_token_p50_ms": _shown(p50, 1),
        "first_token_p99_ms": f"{pooled(rows, 99) * 1000:.1f}",
        "tokens_by_direct": _shown(ratio(rows, direct, tokens_per_s), 3),
        "p50_by_direct": _shown(first_token_ratio(rows, direct, 50), 3),
        "p99_by_direct": _shown(first_token_ratio(rows, direct, 99), 3),
        "tokens_by_plain": _shown(ratio(rows, best, tokens_per_s), 3),
        "p50_by_plain": _shown(first_token_ratio(rows, best, 50), 3),
        "p99_by_plain": _shown(first_token_ratio(rows, best, 99), 3),
        "cpu_cores": ", ".join(f"{name} {cores:.2f}" for name, cores in used.items()),
    }


def _shown(spread: Spread | None, digits: int) -> str:
    return "" if spread is None else spread.shown(digits)
