"""SQLite alone: the schema that the migrations make, durability, and one process for each file."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, text

from controlplane import errors
from controlplane.store.databases import sqlite as store_sqlite
from controlplane.store.schema import metadata
from controlplane.store.store import Store


def _statements(connection: Connection) -> list[list[str]]:
    """The statements that made the tables and indexes, which tell more than their columns do.

    Columns and constraints are sorted, because a column that a migration adds comes last.
    """
    rows = connection.execute(text("SELECT sql FROM sqlite_master WHERE name != 'alembic_version' ORDER BY name"))
    statements = [" ".join(row.sql.split()).removesuffix(")").rstrip() for row in rows if row.sql is not None]
    return [sorted(statement.replace(" (", ", ", 1).split(", ")) for statement in statements]


async def test_the_migrations_make_the_schema_of_the_code(tmp_path: Path) -> None:
    async with Store.open(f"sqlite+aiosqlite:///{tmp_path}/a.db"):
        pass
    migrated = create_engine(f"sqlite:///{tmp_path}/a.db")
    created = create_engine(f"sqlite:///{tmp_path}/b.db")
    with migrated.connect() as connection, created.begin() as other:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        metadata.create_all(other)
        assert _statements(connection) == _statements(other)
    migrated.dispose()
    created.dispose()


async def test_commits_are_durable_and_references_hold(tmp_path: Path) -> None:
    engine = store_sqlite.create_engine(tmp_path / "a.db")
    async with engine.connect() as connection:
        pragmas = {}
        for name in ("journal_mode", "synchronous", "foreign_keys"):
            pragmas[name] = (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
    await engine.dispose()
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def _modes(directory: Path) -> dict[str, str]:
    return {path.name: oct(path.stat().st_mode & 0o777) for path in sorted(directory.iterdir())}


async def test_only_its_user_can_read_the_database(tmp_path: Path) -> None:
    async with Store.open(f"sqlite+aiosqlite:///{tmp_path}/a.db"):
        assert _modes(tmp_path) == dict.fromkeys(("a.db", "a.db-shm", "a.db-wal", "a.db.lock"), "0o600")


async def test_a_database_that_others_could_read_is_closed_to_them_and_keeps_its_group(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/a.db"
    async with Store.open(url):
        pass
    for path in (tmp_path / "a.db", tmp_path / "a.db-wal"):
        path.touch()
        path.chmod(0o664)
    async with Store.open(url):
        assert _modes(tmp_path)["a.db"] == "0o660"
        assert _modes(tmp_path)["a.db-wal"] == "0o660"


async def test_a_second_process_gets_an_error_that_names_the_first(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/a.db"
    async with Store.open(url):
        with pytest.raises(errors.SetupError, match=r"in use by process \d+ on "):
            async with Store.open(url):
                pass
    async with Store.open(url):
        pass


async def test_a_database_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/a.db"
    async with Store.open(url):
        pass
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(errors.SetupError, match="9999"):
        async with Store.open(url):
            pass


async def test_a_file_that_is_no_database_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("some text that is no database at all" * 100)
    with pytest.raises(errors.SetupError, match="not a database"):
        async with Store.open(f"sqlite+aiosqlite:///{tmp_path}/a.db"):
            pass


async def test_a_directory_that_cannot_be_created_is_a_setup_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.SetupError, match="file"):
        async with Store.open(f"sqlite+aiosqlite:///{tmp_path}/file/a.db"):
            pass
