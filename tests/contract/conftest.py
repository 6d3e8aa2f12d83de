"""The databases that the suite runs on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.registry_world import World, open_world


@pytest.fixture(params=["sqlite"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    return {"sqlite": f"sqlite+aiosqlite:///{tmp_path}/registry.db"}[request.param]


@pytest.fixture
async def world(store_url: str, tmp_path: Path) -> AsyncIterator[World]:
    """An empty registry."""
    async with open_world(store_url, tmp_path) as opened:
        yield opened
