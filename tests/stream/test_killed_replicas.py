"""Control planes that share a PostgreSQL database are killed while clients write."""

from __future__ import annotations

from pathlib import Path

from tests.killed_replicas import CLIENTS, kill_while_writing
from tests.postgres_server import PostgresServer


async def test_every_acknowledged_write_exists_once_whichever_replica_is_killed(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    result = await kill_while_writing(postgres_server.new_database(), tmp_path, writes=400, seed=1)
    assert result.wrong == []
    assert result.kills >= 5
    # Some calls were cut off and sent again.
    assert result.attempts > 400 + CLIENTS // 2
