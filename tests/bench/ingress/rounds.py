"""Runs the plan: in each round every case, in each case every subject, one after another."""

from __future__ import annotations

import http.client
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.ingress import answers, plan, subjects, wrk
from tests.bench.ingress.processes import ended
from tests.bench.ingress.shown.results import Sample
from tests.bench.output import tell
from tests.ports import free_port

_WARM_UP = plan.Case(name="warm-up")
_WARM_UP_S = 1


class WrongAnswer(Exception):
    """A subject answers a case wrongly, so that its speed means nothing."""


@contextmanager
def started(names: Sequence[str]) -> Iterator[Mapping[str, subjects.Subject]]:
    """Start subjects, and end them. All are warm, and paused but for the engine.

    Args:
        names: Which; the engine is started in any case.
    """
    with tempfile.TemporaryDirectory(prefix="bi-") as folder:
        place = subjects.Place(folder=Path(folder), engine_port=free_port(), processes=[])
        with ended(place.processes):
            found: dict[str, subjects.Subject] = {}
            for name in dict.fromkeys((plan.DIRECT, *names)):
                began = time.monotonic()
                found[name] = subjects.start(name, place)
                found[name].wait_until_ready()
                measured(found[name], _WARM_UP, 0, engine=found[plan.DIRECT], seconds=_WARM_UP_S, folder=place.folder)
                if name != plan.DIRECT:
                    _pause(found[name])
                tell(f"{name}: ready after {time.monotonic() - began:.0f} s")
            yield found


def run(
    up: Mapping[str, subjects.Subject], chosen: Sequence[tuple[plan.Case, tuple[str, ...]]], rounds: int, seconds: int
) -> Iterator[Sample]:
    """Measure, and yield each sample.

    Args:
        up: The subjects, from `started`.
        chosen: From `plan.chosen`.
        rounds: How many times.
        seconds: Of each measurement.

    Raises:
        WrongAnswer: A subject answers a case wrongly.
    """
    with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
        for number in range(rounds):
            for case, names in chosen:
                for name in plan.in_turns(names, number):
                    yield _in_turn(up, name, case, number, seconds=seconds, folder=Path(folder))
            tell(f"round {number + 1} of {rounds} is done")


def _in_turn(
    up: Mapping[str, subjects.Subject], name: str, case: plan.Case, number: int, *, seconds: int, folder: Path
) -> Sample:
    subject, engine = up[name], up[plan.DIRECT]
    if subject is engine:
        return measured(subject, case, number, engine=engine, seconds=seconds, folder=folder)
    for process in subject.processes:
        process.resume()
    try:
        return measured(subject, case, number, engine=engine, seconds=seconds, folder=folder)
    finally:
        _pause(subject)


def measured(
    subject: subjects.Subject,
    case: plan.Case,
    number: int,
    *,
    engine: subjects.Subject,
    seconds: int,
    folder: Path,
) -> Sample:
    """Load a subject that is not paused.

    Args:
        subject: Which.
        case: The load.
        number: Of the round.
        engine: The mock engine.
        seconds: How long.
        folder: For what wrk reads.

    Raises:
        WrongAnswer: It answers wrongly.
    """
    try:
        wrong = subject.ask(case)
    except (OSError, http.client.HTTPException) as error:
        wrong = repr(error)
    if wrong is not None:
        raise WrongAnswer(f"{subject.name} answers {case.name} wrongly: {wrong}")
    body, lua = folder / "body", folder / "load.lua"
    body.write_bytes(answers.request_body(case.answer, model=case.model, body_bytes=case.body_bytes))
    lua.write_text(wrk.script(body, dict(subject.headers)))
    before_s, engine_before_s, wrk_before_s = subject.cpu_s(), engine.cpu_s(), _children_cpu_s()
    load = wrk.run(subject.url, lua, connections=case.connections, seconds=plan.seconds_of(subject.name, seconds))
    return Sample(
        round=number,
        subject=subject.name,
        case=case.name,
        answer=case.answer,
        load=load,
        cpu_s=subject.cpu_s() - before_s,
        memory_bytes=subject.memory_bytes(),
        engine_cpu_s=engine.cpu_s() - engine_before_s,
        wrk_cpu_s=_children_cpu_s() - wrk_before_s,
    )


def _children_cpu_s() -> float:
    """CPU time of the children that have ended: wrk is the only one that ends during a load."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _pause(subject: subjects.Subject) -> None:
    for process in subject.processes:
        process.pause()
