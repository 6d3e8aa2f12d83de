"""Every answer to a random request has the form of the API. `make fuzz` sends ten times as many."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import fuzz

COUNT = 2500
"""Requests on each database. They take 4 s."""


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_every_refusal_is_well_formed_and_none_is_internal(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/registry.db"
    if database == "postgres":
        url = request.getfixturevalue("postgres_server").new_database()
    fuzzer = await fuzz(url, tmp_path, count=COUNT, seed=20261124)
    assert fuzzer.wrong == []
    # Some requests got past the first checks.
    assert fuzzer.answers["OK"] > COUNT // 50
    assert {"INVALID_ARGUMENT", "NOT_FOUND"} <= set(fuzzer.answers)
