"""The benchmark's own processes answer as the engine does. No peer is started here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.ingress import plan, rounds, subjects
from tests.bench.ingress.changes import changing
from tests.bench.ingress.changes.publisher import Command
from tests.bench.ingress.processes import Process, StartError, ended
from tests.ports import free_port


@pytest.fixture
def place(tmp_path: Path) -> Iterator[subjects.Place]:
    found = subjects.Place(folder=tmp_path, engine_port=free_port(), processes=[])
    with ended(found.processes):
        subjects.start(plan.DIRECT, found).wait_until_ready()
        yield found


def test_our_ingress_answers_every_case_also_after_a_pause(place: subjects.Place) -> None:
    ours = subjects.start(plan.FULL, place)
    ours.wait_until_ready()
    ours.processes[0].pause()
    ours.processes[0].resume()
    wrong = {case.name: ours.ask(case) for case in plan.CASES if plan.FULL in case.subjects}
    assert set(wrong.values()) == {None}, wrong
    assert ours.cpu_s() > 0
    assert ours.memory_bytes() > 0


def test_an_ingress_follows_changes_and_a_whole_new_snapshot(place: subjects.Place) -> None:
    socket = place.folder / "relay"
    ingress = changing.start(place, socket, entries=100)
    windows = changing.Windows(ingress, ingress, socket, place.folder, seconds=1)
    for command in (Command(seconds=0.2), Command(prepare=True), Command(replace=True), Command(seconds=0.1)):
        windows.await_revision(windows.publish(command))
    assert changing.revision_of(ingress.port) == 5
    assert ingress.ask(plan.Case(name="ready")) is None


def test_the_floor_forwards_every_case(place: subjects.Place) -> None:
    floor = subjects.start(plan.FLOOR, place)
    floor.wait_until_ready()
    wrong = {case.name: floor.ask(case) for case in plan.CASES if plan.FLOOR in case.subjects}
    assert set(wrong.values()) == {None}, wrong


def test_a_subject_that_has_gone_is_named_with_its_case(tmp_path: Path) -> None:
    gone = subjects.Subject(name="gone", port=free_port(), processes=(), headers={})
    with pytest.raises(rounds.WrongAnswer, match=r"gone answers unary-c1 wrongly: ConnectionRefusedError"):
        rounds.measured(gone, plan.CASES[0], 0, engine=gone, seconds=1, folder=tmp_path)


def test_a_peer_that_is_not_installed_names_the_script_that_installs_it(
    place: subjects.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "ENVIRONMENTS", place.folder)
    with pytest.raises(StartError, match="litellm is not installed; scripts/install-bench"):
        subjects.start(plan.LITELLM, place)


def test_a_process_that_ends_at_once_shows_its_log(place: subjects.Place) -> None:
    place.processes.append(broken := Process("broken", ["sh", "-c", "echo oh no; exit 3"], place.folder))
    with pytest.raises(StartError, match=r"broken has ended with status 3: oh no"):
        broken.wait_for_port(free_port(), timeout_s=10)
