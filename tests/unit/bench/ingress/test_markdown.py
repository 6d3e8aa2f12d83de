from __future__ import annotations

from tests.bench.ingress import plan
from tests.bench.ingress.shown import markdown
from tests.bench.ingress.shown.results import Results
from tests.unit.bench.ingress.samples import load, sample


def test_tables_have_a_row_for_each_case_and_a_column_for_each_subject() -> None:
    samples = [
        sample(plan.DIRECT, of=load(requests=8_000, p50_ms=1.0), cpu_s=0.08),
        sample(plan.FULL, of=load(requests=4_000, p50_ms=1.5), cpu_s=0.8),
        sample(plan.FULL, case="stream-50-c16", of=load(requests=50)),
    ]
    lines = markdown.tables(Results(samples)).splitlines()
    assert "| requests/s, or streams/s | direct | ours-full |" in lines
    assert "| unary-c16 | 8,000 | 4,000 |" in lines
    assert "| stream-50-c16 |  | 50.00 |" in lines
    assert "| unary-c16 | 1.00; 2.00 | +0.50; +1.00 |" in lines
    assert "| unary-c16 | 0.010 | 0.200 |" in lines


def test_every_row_has_as_many_cells_as_its_table() -> None:
    tables = markdown.tables(Results([sample(plan.FULL_10, case="names-c16"), sample(plan.FULL)])).split("\n\n")
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) <= 1, table
