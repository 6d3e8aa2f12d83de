from __future__ import annotations

from xml.etree import ElementTree

from tests.bench.ingress import plan
from tests.bench.ingress.shown import plot
from tests.bench.ingress.shown.results import Results
from tests.unit.bench.ingress.samples import load, sample

SVG = "{http://www.w3.org/2000/svg}"


def bars(drawn: str) -> list[float]:
    """The widths of the bars, without the background."""
    _, *rectangles = ElementTree.fromstring(drawn).iter(f"{SVG}rect")  # noqa: S314  # made here
    return [float(rectangle.attrib["width"]) for rectangle in rectangles]


def test_ten_times_as_much_is_one_step_wider_on_the_scale() -> None:
    rates = {plan.DIRECT: 10_000, plan.ROUTER: 1_000, plan.FULL: 100}
    samples = [sample(name, of=load(requests=rate), cpu_s=0.0) for name, rate in rates.items()]
    direct, router, ours, *_ = bars(plot.svg(Results(samples)))
    assert round(direct - router, 1) == round(router - ours, 1) > 0


def test_a_subject_without_answers_has_an_empty_bar() -> None:
    drawn = plot.svg(Results([sample(plan.DIRECT), sample(plan.SERVE, of=load(requests=0), cpu_s=0.0)]))
    assert bars(drawn)[1] == 0.0


def test_results_without_a_shown_case_make_an_empty_plot() -> None:
    assert bars(plot.svg(Results([]))) == []
