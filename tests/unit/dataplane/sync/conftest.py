from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disk import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with a new directory, and a running data plane."""
    machine = Machine(tmp_path / "catalog")
    machine.start()
    yield machine
    machine.kill()


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush nothing for real, for tests that end the process and not the machine: it takes time."""
    for flush in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, flush, lambda _: None)
