"""A snapshot file and its log, as they are read."""

from __future__ import annotations

import io

import pytest

from dataplane.sync.directory import SnapshotDirectory
from dataplane.sync.disk.text import TEXT_BYTES_MAX
from dataplane.sync.stored import generation
from dataplane.sync.stored.generation import Generation, read_generation
from dataplane.sync.stored.log_format import LoggedChange, base_record, begin_log, change_record, encode
from dataplane.sync.stored.names import in_snapshots, log_name, snapshot_name
from tests.disk import ONE, THREE, TWO, change, verify
from tests.memory_disk import MemoryDisk

NAME = snapshot_name(ONE.position)
LOG = in_snapshots(log_name(NAME))


@pytest.fixture
def disk() -> MemoryDisk:
    """With 1 whole, and 2 and 3 as changes."""
    disk = MemoryDisk()
    directory = SnapshotDirectory(disk)
    for before, after in ((None, ONE), (ONE, TWO), (TWO, THREE)):
        directory.save(after, change(before, after) if before else None)
    return disk


def test_each_point_has_its_content(disk: MemoryDisk) -> None:
    read = read_generation(disk, NAME)
    assert [read.content(number).entries for number in range(3)] == [each.entries for each in (ONE, TWO, THREE)]


def test_changes_that_lead_to_another_number_of_entries_are_refused(disk: MemoryDisk) -> None:
    content, end = begin_log()
    wrong = LoggedChange(to=TWO.position, entry_count=3, change=change(ONE, TWO))
    for record in (base_record(ONE.position), change_record(wrong)):
        encoded, end = encode(record, end)
        content += encoded
    disk.files[LOG] = content
    with pytest.raises(ValueError, match="the changes lead to 2 entries, and not to 3"):
        read_generation(disk, NAME).content(1)


def test_no_more_of_a_log_is_read_than_a_log_may_have(disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = read_generation(disk, NAME)
    monkeypatch.setattr(generation, "LOG_BYTES_MAX", complete.log.points[1].end.offset)
    read = read_generation(disk, NAME)
    assert (read.newest, read.log_bytes) == (1, len(disk.files[LOG]))
    assert not read.is_whole
    assert read.log.fault == "it is longer than a log may be"


def test_a_log_that_cannot_be_read_leaves_the_base(disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    read = unreadable_log(disk, monkeypatch)
    assert (read.newest, read.is_whole) == (0, False)
    assert read.log.fault == "it cannot be read: Input/output error"


def unreadable_log(disk: MemoryDisk, monkeypatch: pytest.MonkeyPatch) -> Generation:
    reader = disk.reader

    def fail(path: str) -> object:
        if path == LOG:
            raise OSError("Input/output error")
        return reader(path)

    monkeypatch.setattr(disk, "reader", fail)
    return read_generation(disk, NAME)


@pytest.mark.parametrize("path", ["CURRENT", "PREVIOUS", "PROBATION", "REJECTED"])
def test_small_files_that_have_become_huge_are_not_read_whole(
    disk: MemoryDisk, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk.files[path] = b" " * (TEXT_BYTES_MAX + 1)
    read_bytes: list[int] = []
    reader = disk.reader

    class Counted(io.BytesIO):
        def close(self) -> None:
            read_bytes.append(self.tell())
            super().close()

    monkeypatch.setattr(disk, "reader", lambda name: Counted(disk.files[name]) if name == path else reader(name))
    boot = SnapshotDirectory(disk).boot(verify)
    assert boot.snapshot is not None
    assert read_bytes
    assert max(read_bytes) == TEXT_BYTES_MAX
