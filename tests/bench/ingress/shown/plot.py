"""A plot of a run, as SVG: bars for each subject, on a scale of powers of ten. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from tests.bench.ingress import plan
from tests.bench.ingress.shown.results import Measure, Results, Spread, spread
from tests.bench.ingress.shown.verdicts import chunks, cpu, p50, requests

_WIDTH, _LABEL, _VALUE = 860, 130, 190
_BAR, _GAP, _TITLE = 18, 8, 34
_COLOURS = {plan.BARE: "#2f6fb0", plan.FULL: "#174a7c"}
_COLOUR = "#b8bec6"
_SHOWN = (plan.DIRECT, plan.ROUTER, plan.LITELLM, plan.SERVE, plan.SERVE_HAPROXY, plan.FLOOR, plan.BARE, plan.FULL)

_PANELS: Sequence[tuple[str, str, Measure, bool]] = (
    ("p50 added to the engine asked directly, c=1, ms (less is better)", "unary-c1", p50, True),
    ("requests/s, c=16 (more is better)", "unary-c16", requests, False),
    ("streams/s of 50 chunks, c=16 (more is better)", "stream-50-c16", requests, False),
    ("chunks/s of streams of 500 chunks, c=16 (more is better)", "stream-500-c16", chunks, False),
    ("CPU seconds for 1,000 requests, c=16 (less is better)", "unary-c16", cpu, False),
)
"""Title, case, measure, and whether the engine's own is taken off."""


def svg(results: Results) -> str:
    """The plot of a run. Panels without results are left out."""
    parts: list[str] = []
    top = _GAP
    for title, case, measure, is_added in _PANELS:
        found = [(name, bar) for name in _SHOWN if (bar := _bar(results, case, name, measure, is_added)) is not None]
        if found:
            parts += _panel(title, found, top)
            top += _TITLE + len(found) * (_BAR + _GAP) + _GAP
    style = 'font-family="sans-serif" font-size="13"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" width="{_WIDTH}" {style}>'
    background = f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>'
    return "\n".join([head, background, *parts, "</svg>", ""])


def _bar(results: Results, case: str, name: str, measure: Measure, is_added: bool) -> Spread | None:
    if not is_added:
        return spread(results.values(case, name, measure))
    return spread(results.added(case, name, measure)) if name != plan.DIRECT else None


def _panel(title: str, found: Sequence[tuple[str, Spread]], top: int) -> Iterator[str]:
    yield f'<text x="{_GAP}" y="{top + 20}" font-weight="bold">{escape(title)}</text>'
    scale = _Scale([bar for _, bar in found])
    for number, (name, bar) in enumerate(found):
        y = top + _TITLE + number * (_BAR + _GAP)
        colour = _COLOURS.get(name, _COLOUR)
        yield f'<text x="{_LABEL - _GAP}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect x="{_LABEL}" y="{y}" width="{scale(bar.median):.1f}" height="{_BAR}" fill="{colour}"/>'
        low, high = _LABEL + scale(bar.lowest), _LABEL + scale(bar.highest)
        middle = y + _BAR / 2
        yield f'<path d="M{low:.1f} {middle} H{high:.1f}" stroke="#20242a" stroke-width="2"/>'
        yield f'<text x="{_WIDTH - _GAP}" y="{y + 14}" text-anchor="end">{_label(bar)}</text>'


def _label(bar: Spread) -> str:
    digits = 0 if bar.median >= 100 else 2 if bar.median >= 1 else 3
    return bar.text(digits)


class _Scale:
    """Pixels of a value: a power of ten below the lowest is at the left edge."""

    def __init__(self, bars: Sequence[Spread]) -> None:
        known = [value for bar in bars for value in (bar.lowest, bar.highest) if 0 < value < math.inf]
        self._low = math.floor(math.log10(min(known))) if known else 0
        self._high = max(math.ceil(math.log10(max(known))), self._low + 1) if known else 1

    def __call__(self, value: float) -> float:
        if value <= 0:
            return 0.0
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return (_WIDTH - _LABEL - _VALUE) * min(max(share, 0.0), 1.0)
