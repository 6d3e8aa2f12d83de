"""Backup and restore of a whole store, from either kind of database to either."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, MetaData, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from controlplane.errors import SetupError
from controlplane.store.backup import file as backup_file
from controlplane.store.databases import database
from controlplane.store.databases import postgres as store_postgres
from controlplane.store.fleet.schema import data_plane_enrollments
from controlplane.store.schema import catalog, entries, metadata
from protocol.catalog_digest import CatalogDigest

_LEFT_OUT = frozenset({"data_planes", "data_plane_changes", "data_plane_reports", "replicas", "resource_statuses"})
"""The state of the fleet. Data planes report it again, and what they reported about the old store
is useless."""

_ROWS_PER_INSERT = 500


async def backup(url: str, path: Path) -> backup_file.Header:
    """Write the store at `url` to a new file, as of one moment. The store may be in use.

    Raises:
        SetupError: It is not possible; says why.
    """
    async with _opened(url, only_read=True) as opened, opened.engine.begin() as connection:
        schema = await connection.run_sync(_schema)
        if schema is None or schema != _scripts(connection).get_current_head():
            raise SetupError(f"{opened.name}: not of this release; back it up with its own")
        row = (await connection.execute(select(catalog.c.store_uid, catalog.c.revision))).one()
        header = backup_file.Header(
            schema=schema,
            store_uid=row.store_uid,
            catalog_revision=row.revision,
            create_time=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        with backup_file.new_backup(path) as writer:
            writer.begin(header)
            for table in metadata.sorted_tables:
                if table.name in _LEFT_OUT:
                    continue
                writer.table(table.name, table.columns.keys())
                async with connection.stream(select(table).order_by(*table.primary_key)) as rows:
                    async for values in rows:
                        writer.row(values)
            writer.end()
    return header


async def restore(url: str, path: Path) -> backup_file.Header:
    """Fill the empty store at `url` from a backup, and give it a new identity.

    Data planes that served the old store refuse this one until an operator allows it, because it
    may lack revisions that they have seen.

    Raises:
        SetupError: The store is not empty, or the file is damaged or of a newer release. Nothing
        was changed.
    """
    header = backup_file.read_header(path)
    async with _opened(url) as opened, opened.begin_setup() as connection:
        _check_known(header, _scripts(connection), path)
        present = await connection.run_sync(_schema)
        if present is None:
            await connection.run_sync(database.migrate, header.schema)
        elif not await _empty(connection):
            raise SetupError(f"{opened.name}: holds a registry already; restore into a new database")
        elif present != header.schema:
            raise SetupError(f"{opened.name}: not of the release of the backup; restore into a new database")
        await _insert(connection, path)
        await connection.run_sync(database.migrate)
        await opened.finish_schema(connection)
        await connection.execute(update(catalog).values(store_uid=uuid.uuid4().hex))
        # A token that was redeemed after the backup must not be redeemed again.
        await connection.execute(update(data_plane_enrollments).values(token_expire_time_us=0))
        await _check_digest(connection, path)
    return header


@asynccontextmanager
async def _opened(url: str, *, only_read: bool = False) -> AsyncIterator[database.Database]:
    connections_max = store_postgres.CONNECTIONS_MIN
    async with database.open_database(url, connections_max=connections_max, only_read=only_read) as opened:
        try:
            yield opened
        except (CommandError, OSError, SQLAlchemyError, TimeoutError) as error:
            raise SetupError(f"{opened.name}: {database.first_line(error)}") from error


def _schema(connection: Connection) -> str | None:
    """The migration that the database is at. None: it has no tables."""
    return MigrationContext.configure(connection).get_current_revision()


def _scripts(connection: AsyncConnection) -> ScriptDirectory:
    return ScriptDirectory.from_config(database.migrations(connection.sync_connection))


def _check_known(header: backup_file.Header, scripts: ScriptDirectory, path: Path) -> None:
    if header.schema not in {script.revision for script in scripts.walk_revisions()}:
        raise SetupError(f"{path}: made by a newer release (schema {header.schema}); restore it with that one")


async def _empty(connection: AsyncConnection) -> bool:
    return (await connection.execute(select(func.max(catalog.c.revision)))).scalar_one() in (None, 0)


async def _insert(connection: AsyncConnection, path: Path) -> None:
    # The tables as they are in the database: those of the backup's release may differ from the
    # current ones.
    tables = MetaData()
    await connection.run_sync(tables.reflect)
    for table in reversed(tables.sorted_tables):
        if table.name != "alembic_version" and table.name not in _LEFT_OUT:
            await connection.execute(table.delete())
    for name, rows in groupby(backup_file.read_rows(path), key=lambda item: item[0].name):
        batch: list[Mapping[str, Any]] = []
        for row in map(itemgetter(1), rows):
            batch.append(row)
            if len(batch) == _ROWS_PER_INSERT:
                await connection.execute(insert(tables.tables[name]), batch)
                batch = []
        if batch:
            await connection.execute(insert(tables.tables[name]), batch)


async def _check_digest(connection: AsyncConnection, path: Path) -> None:
    """Check that the entries of the newest snapshot hash to its digest."""
    digest = CatalogDigest()
    current = select(entries.c.name, entries.c.type, entries.c.digest).where(entries.c.to_revision.is_(None))
    async with connection.stream(current) as rows:
        async for name, kind, content in rows:
            digest = digest.added(name, kind, content)
    kept = (await connection.execute(select(catalog.c.digest_state, catalog.c.entry_count))).one()
    if (kept.digest_state, kept.entry_count) != (digest.to_bytes(), digest.entry_count):
        raise SetupError(f"{path}: its entries are not those of its digest; it was made from a damaged store")
