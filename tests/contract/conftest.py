"""The databases that the suite runs on."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.postgres_server import PostgresServer
from tests.registry_world import World, open_world


@pytest.fixture(params=["sqlite", "postgres"])
def new_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes URLs of empty databases of each kind."""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        return server.new_database
    numbers = itertools.count()
    return lambda: f"sqlite+aiosqlite:///{tmp_path}/registry{next(numbers)}.db"


@pytest.fixture
def store_url(new_store_url: Callable[[], str]) -> str:
    """URL of an empty database of each kind."""
    return new_store_url()


@pytest.fixture
async def world(store_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """An empty registry."""
    async with open_world(store_url, tmp_path) as opened:
        yield opened
