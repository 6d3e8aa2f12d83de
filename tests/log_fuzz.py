"""Boots data planes from mutated logs of changes, and checks what they activate.

`python -m tests.log_fuzz COUNT SEED` runs it with any size (`make fuzz-logs`).
"""

from __future__ import annotations

import collections
import itertools
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import structlog

from dataplane.snapshot.snapshot import Position, Snapshot
from dataplane.sync.directory import SnapshotDirectory
from dataplane.sync.stored.log_format import Kind, Record, begin_log, encode
from tests.disk import change, snapshot, verify
from tests.memory_disk import MemoryDisk
from tests.raw import adapter, model, raws

COUNT = 100_000
_SHOWN_MAX = 20

BASE = snapshot(1, entries=raws(model("a"), adapter("a", "x")))
COMMITTED = (
    BASE,
    snapshot(2, entries=raws(model("a"), adapter("a", "x"), adapter("a", "y"))),
    snapshot(4, entries=raws(model("a", number=2), adapter("a", "y"), model("b"))),
    snapshot(5, entries=raws(model("a", number=2), model("b"))),
    snapshot(6, entries=()),
    snapshot(9, entries=raws(model("a", number=3), adapter("a", "x"))),
)
"""Each is a change of the one before. 2 and 5 are proven."""
NEWER = snapshot(99, entries=raws(model("z")))
CONTENT = {each.position.digest: each.entries for each in COMMITTED}


class _Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def sound_files() -> dict[str, bytes]:
    """The files of a data plane that was killed with the last of COMMITTED in service."""
    disk, clock = MemoryDisk(), _Clock()
    directory = SnapshotDirectory(disk, clock=clock)
    for number, each in enumerate(COMMITTED):
        directory.save(each, change(COMMITTED[number - 1], each) if number else None)
        if each.position.revision in (2, 5):
            clock.now_s += 3600
            assert directory.settle()
    del disk.files["RESERVE"]
    return disk.files


Mutation = Callable[[Random, bytes], bytes]


def flip(random: Random, content: bytes) -> bytes:
    at = random.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :]


def truncate(random: Random, content: bytes) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def insert(random: Random, content: bytes) -> bytes:
    at = random.randrange(len(content) + 1)
    return content[:at] + random.randbytes(random.randrange(1, 64)) + content[at:]


def blank(random: Random, content: bytes) -> bytes:
    begin, end = _slice(random, content)
    return content[:begin] + bytes(end - begin) + content[end:]


def leave_out(random: Random, content: bytes) -> bytes:
    begin, end = _slice(random, content)
    return content[:begin] + content[end:]


def repeat(random: Random, content: bytes) -> bytes:
    begin, end = _slice(random, content)
    return content[:end] + content[begin:]


def _slice(random: Random, content: bytes) -> tuple[int, int]:
    begin = random.randrange(len(content) + 1)
    return begin, min(len(content), begin + random.randrange(1, 400))


def forge(random: Random, content: bytes) -> bytes:
    """Other records, with the right checksums."""
    records = _records(content)
    for _ in range(random.randrange(1, 4)):
        at, other = random.randrange(len(records)), random.randrange(len(records))
        record = records[at]
        match random.randrange(6):
            case 0:
                records[at], records[other] = records[other], record
            case 1:
                records.insert(other, record)
            case 2 if len(records) > 1:
                del records[at]
            case 3:
                records[at] = replace(record, kind=random.choice(tuple(Kind)))
            case 4:
                records[at] = replace(record, payload=records[other].payload)
            case _ if record.payload:
                mutation = random.choice((flip, truncate, insert, blank, leave_out, repeat))
                records[at] = replace(record, payload=mutation(random, record.payload))
    return _sealed(records)


def _records(content: bytes) -> list[Record]:
    """The records of a sound log."""
    ends = [len(begin_log()[0])]
    while ends[-1] < len(content):
        length = int.from_bytes(content[ends[-1] : ends[-1] + 4], "big")
        ends.append(ends[-1] + 9 + length + 32)
    return [
        Record(kind=Kind(content[begin + 4]), payload=content[begin + 9 : end - 32])
        for begin, end in itertools.pairwise(ends)
    ]


def _sealed(records: Sequence[Record]) -> bytes:
    content, end = begin_log()
    for record in records:
        encoded, end = encode(record, end)
        content += encoded
    return content


BLIND: tuple[Mutation, ...] = (flip, truncate, insert, blank, leave_out, repeat)
"""What a disk may do. Nothing of it may go unnoticed."""


class Fuzzer:
    """Makes and tries cases. The same seed makes the same cases."""

    def __init__(self, seed: int) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self._random = Random(seed)
        self._files = sound_files()
        (self._log,) = (path for path in self._files if path.endswith(".log"))

    def run(self, count: int) -> None:
        for number in range(count):
            forged = self._random.random() < 0.4
            content = self._files[self._log]
            mutations = (forge,) if forged else self._random.choices(BLIND, k=self._random.randrange(1, 4))
            for mutation in mutations:
                content = mutation(self._random, content) if content else content
            found = self._fault(content, forged=forged)
            if found and len(self.wrong) < _SHOWN_MAX:
                self.wrong.append(f"case {number}, {[mutation.__name__ for mutation in mutations]}: {found}")

    def _fault(self, content: bytes, *, forged: bool) -> str:
        """What is wrong with the start from this log; empty: nothing."""
        disk = MemoryDisk({**self._files, self._log: content})
        directory = SnapshotDirectory(disk)
        directory.open()
        booted = directory.boot(verify).snapshot
        if booted is None:
            return "nothing was booted, and the base is sound"
        self.outcomes[f"{'forged' if forged else 'damaged'}: booted revision {booted.position.revision}"] += 1
        if not forged and booted.position not in [each.position for each in COMMITTED]:
            return f"{booted.position} was never committed"
        if CONTENT.get(booted.position.digest) != booted.entries:
            return f"the content of {booted.position} was never committed"
        newer = _after(booted.position)
        directory.save(newer, change(booted, newer))
        again = SnapshotDirectory(MemoryDisk(disk.files)).boot(verify)
        if again.snapshot != newer or again.unreadable:
            return f"the start after the next change finds {again.snapshot and again.snapshot.position}"
        return ""


def _after(position: Position) -> Snapshot:
    """A snapshot that a change may lead to from there: a forged position may be anywhere."""
    revision = min(position.revision + 1, 2**63 - 1)
    return replace(NEWER, position=replace(NEWER.position, store_uid=position.store_uid, revision=revision))


def main() -> int:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else Random().randrange(1_000_000)
    began_s = time.monotonic()
    fuzzer = Fuzzer(seed)
    fuzzer.run(count)
    sys.stdout.write(f"seed {seed}, {count} logs, {time.monotonic() - began_s:.0f} s\n")
    sys.stdout.write("".join(f"  {number:6} {outcome}\n" for outcome, number in sorted(fuzzer.outcomes.items())))
    sys.stdout.write("".join(f"  {found}\n" for found in fuzzer.wrong))
    return 1 if fuzzer.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
