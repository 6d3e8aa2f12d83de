from __future__ import annotations

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
