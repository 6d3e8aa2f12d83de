"""A backup is restored completely or not at all, into either kind of database."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from controlplane import __main__ as program
from controlplane.errors import SetupError
from controlplane.store.backup import backup as store_backup
from controlplane.store.backup import file as backup_file
from controlplane.store.store import Store
from dataplane.snapshot.accept import accept
from dataplane.snapshot.rejection import Rejection
from dataplane.snapshot.snapshot import Position, RawEntry, Snapshot
from tests.postgres_server import PostgresServer
from tests.raw import POLICY
from tests.registry_world import World, open_world, spec


@pytest.fixture(params=["sqlite", "postgres"])
def new_target_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Makes URLs of databases without any tables, of each kind."""
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        return lambda: server.new_database(migrated=False)
    return lambda: f"sqlite+aiosqlite:///{tmp_path}/target.db"


async def _fill(world: World) -> None:
    await world.register_model("m", labels={"base64": "AAAA", "json": "{}"})
    await world.register_adapter("m", "a")
    await world.register_model("m", spec(scaling={"minReplicas": 1}), labels={"ü": "✓"})
    await world.register_model("gone")
    await world.delete_model("gone")


async def _contents(store: Store) -> object:
    head = await store.head()
    return (
        head.position.revision,
        head.position.digest,
        await store.models.list(limit=100),
        await store.adapters.list(None, limit=100),
        [await store.read_entries(revision, after_name="", limit=100) for revision in range(6)],
        [(commit.method, commit.create_time) for commit in await store.revisions.list(before_revision=None, limit=100)],
    )


async def test_a_restore_brings_everything_back_under_a_new_uid(
    store_url: str, new_target_url: Callable[[], str], tmp_path: Path
) -> None:
    file, target = tmp_path / "a.backup", new_target_url()
    async with open_world(store_url, tmp_path) as world:
        await _fill(world)
        before, uid = await _contents(world.store), (await world.store.head()).position.store_uid
        # The store is in use during the backup.
        header = await store_backup.backup(store_url, file)
    assert (header.catalog_revision, header.store_uid) == (5, uid)
    assert file.stat().st_mode & 0o777 == 0o600
    assert await store_backup.restore(target, file) == header
    async with open_world(target, tmp_path) as world:
        assert await _contents(world.store) == before
        assert (await world.store.head()).position.store_uid != uid
        assert (await world.register_model("another")).catalog_revision == 6
        await world.check_digest(6)
    # Neither a store with content nor a file is overwritten.
    with pytest.raises(SetupError, match="holds a registry already"):
        await store_backup.restore(target, file)
    with pytest.raises(SetupError, match="exists already"):
        await store_backup.backup(store_url, file)


async def test_data_planes_refuse_a_restored_store_until_it_is_allowed(store_url: str, tmp_path: Path) -> None:
    file, target = tmp_path / "a.backup", f"sqlite+aiosqlite:///{tmp_path}/restored.db"
    async with open_world(store_url, tmp_path) as world:
        await _fill(world)
        held = accept(*await _snapshot(world), held=None, policy=POLICY)
        assert isinstance(held, Snapshot)
        await store_backup.backup(store_url, file)
    await store_backup.restore(target, file)
    async with open_world(target, tmp_path) as world:
        offered = await _snapshot(world)
    refusal = accept(*offered, held=held, policy=POLICY)
    assert isinstance(refusal, Rejection)
    assert "STORE" in refusal.reason
    assert isinstance(accept(*offered, held=held, policy=dataclasses.replace(POLICY, allow_new_store=True)), Snapshot)


async def _snapshot(world: World) -> tuple[Position, list[RawEntry]]:
    position = (await world.store.head()).position
    entries = [
        RawEntry(name=entry.name, type=entry.type, digest=entry.digest, blob=entry.blob)
        for entry in await world.entries()
    ]
    return Position(store_uid=position.store_uid, revision=position.revision, digest=position.digest), entries


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """The file of a backup."""
    path, url = tmp_path / "good.backup", f"sqlite+aiosqlite:///{tmp_path}/source.db"
    async with open_world(url, tmp_path) as world:
        await _fill(world)
    await store_backup.backup(url, path)
    return path


@pytest.fixture
def good(file: Path) -> bytes:
    """The content of that file."""
    return file.read_bytes()


async def _refused(content: bytes, match: str, target: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.backup"
    bad.write_bytes(content)
    with pytest.raises(SetupError, match=match):
        await store_backup.restore(target, bad)


async def test_a_damaged_file_is_refused_and_changes_nothing(
    file: Path, good: bytes, new_target_url: Callable[[], str], tmp_path: Path
) -> None:
    target = new_target_url()
    lines = gzip.decompress(good).splitlines(keepends=True)
    swapped = lines[:]
    row = next(index for index, line in enumerate(lines) if b'"gone"' in line or b"models/gone" in line)
    swapped[row] = lines[row].replace(b"gone", b"g0ne")
    for content in (
        b"",
        b"nothing of ours",
        good[: len(good) // 2],
        gzip.compress(b"".join(lines[:-1])),
        gzip.compress(b"".join([*lines[:5], *lines[6:]])),
        gzip.compress(b"".join(swapped)),
        gzip.compress(b"".join([*lines, b"[]\n"])),
    ):
        await _refused(content, "damaged", target, tmp_path)
    assert (await store_backup.restore(target, file)).catalog_revision == 5


@pytest.mark.parametrize(
    ("change", "match"), [({"version": 2}, "reads version 1"), ({"schema": "9999"}, "newer release.*9999")]
)
async def test_a_file_of_a_newer_release_is_refused(
    good: bytes, tmp_path: Path, change: dict[str, object], match: str
) -> None:
    lines = gzip.decompress(good).splitlines()
    header = {**json.loads(lines[0]), **change}
    path = tmp_path / "newer.backup"
    with backup_file.new_backup(path) as writer:
        writer._write(header)
        writer.end()
    with pytest.raises(SetupError, match=match):
        await store_backup.restore(f"sqlite+aiosqlite:///{tmp_path}/target.db", path)


def test_the_commands_print_what_they_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target, path = tmp_path / "source", tmp_path / "target", tmp_path / "a.backup"
    source.mkdir()
    assert program.main(["backup", str(path), "--data-dir", str(source)]) == 1
    assert "there is no registry" in capsys.readouterr().err
    assert program.main(["backup", "--data-dir", str(source)]) == 1
    assert "usage: broadsheet controlplane backup FILE" in capsys.readouterr().err
    assert program.main(["restore", str(path), "--data-dir", str(target)]) == 1
    assert "No such file" in capsys.readouterr().err


def test_a_backup_from_the_command_line_can_be_restored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def fill() -> None:
        async with open_world(f"sqlite+aiosqlite:///{tmp_path}/source/registry.db", tmp_path) as world:
            await _fill(world)

    asyncio.run(fill())
    path = tmp_path / "a.backup"
    assert program.main(["backup", str(path), "--data-dir", str(tmp_path / "source")]) == 0
    assert "catalog revision 5" in capsys.readouterr().out
    assert program.main(["restore", str(path), "--data-dir", str(tmp_path / "target")]) == 0
    assert "--allow-new-store" in capsys.readouterr().out
