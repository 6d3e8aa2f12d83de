"""What tests of every kind share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import PurePath

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.postgres_server import PostgresServer, running_server

END_TO_END = ("tests/e2e/", "tests/hostile/")


def pytest_configure() -> None:
    """Take interrupts also when the shell that runs the tests in the background ignores them.

    An ignored signal stays ignored in every child, and some tests interrupt theirs.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The end-to-end tests come last: no cluster takes processor time from the others."""
    items.sort(key=lambda item: item.nodeid.startswith(END_TO_END))


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """One by one to whichever process is free, and all end-to-end tests of a directory, in order,
    to one of them: they share a cluster.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, *_ = nodeid.split("::")
        return str(PurePath(file).parent) if nodeid.startswith(END_TO_END) else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Scheduling:
    config.option.loadscopereorder = False  # it would begin with the end-to-end tests, as the largest group
    return Scheduling(config, log)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server for the whole session; started by the first test that asks for it."""
    with running_server() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Who runs the tests is not to find tokens of theirs at home, nor tables of another width in
    them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("COLUMNS", raising=False)  # readline sets it for the processes of pytest-xdist
        yield
