"""One cluster for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broadsheet import Client
from broadsheet.demo import ADAPTER_DIR
from broadsheet.demo.prepare_model import default_cache_dir, prepare_model
from tests.e2e.stack import Stack


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Directory of a real language model."""
    return prepare_model(default_cache_dir(), print)


@pytest.fixture(scope="session")
def pirate() -> Path:
    """Directory of a real LoRA adapter of it, which makes every answer a pirate's."""
    return ADAPTER_DIR


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Both planes, running."""
    made = Stack(tmp_path_factory.mktemp("stack"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with stack.client() as made:
        yield made
