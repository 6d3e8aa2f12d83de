"""`python -m tests.simulation.scale`: what many data planes and many adapters cost.

It runs the real machines of both planes in one process, without a network and without sleeping, and
prints processor time, memory and bytes. `docs/scale.md` has figures and what follows from them.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from broadsheet.v1 import snapshot_pb2
from controlplane.catalog.domain import Entry
from controlplane.fleet.fleet import fleet_of
from controlplane.fleet.state import FleetLimits
from dataplane.snapshot.accept import accept
from dataplane.snapshot.change import Change
from dataplane.snapshot.snapshot import RawEntry, Snapshot
from protocol.catalog_digest import CatalogDigest
from tests.raw import POLICY, adapter, model, raw
from tests.raw import position as position_of
from tests.simulation.parts.changes import apply_change
from tests.simulation.parts.fleet_in_memory import FleetInMemory
from tests.simulation.parts.store import Store
from tests.simulation.virtual.environment import FLIGHTS_OF_ONE, patched

DATA_PLANES = (100, 1_000, 10_000)
ENTRIES = (1_000, 10_000, 100_000, 1_000_000)
MEMORY_ENTRIES_MIN = 10_000
CHANGES = 5
"""Of which the median is shown."""


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.scale", description=__doc__)
    parser.add_argument(
        "--data-planes", type=_numbers, default=DATA_PLANES, help="numbers to try (default: %(default)s)"
    )
    parser.add_argument("--entries", type=_numbers, default=ENTRIES, help="catalogs to try (default: %(default)s)")
    options = parser.parse_args(arguments)
    _say("A control plane, by data planes (a changed adapter; 1,000 entries)")
    _say("data planes | kB/stream | change ms | µs/data plane | bytes/data plane | storm µs/data plane")
    with patched([FLIGHTS_OF_ONE]):
        for count in options.data_planes:
            _say(_control_plane(count))
    _say("\nA data plane, by entries of the catalog (a changed adapter)")
    _say("entries | whole MB | bytes/entry in memory | first check s | change ms | bytes of a change | digest µs")
    for count in options.entries:
        _say(_data_plane(count))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


# -- a control plane -------------------------------------------------------------------------------


def _control_plane(count: int) -> str:
    store = Store("store-1")
    entries = {entry.name: entry for entry in map(_stored, _catalog(1_000))}
    store.commit(entries)
    fleet = fleet_of(store, head=store.head, limits=FleetLimits(data_planes_max=count))
    world = FleetInMemory(fleet, store)
    before = _resident_bytes()
    world.connect(count)
    kilobytes = (_resident_bytes() - before) / count / 1024
    world.bytes_sent = 0
    spent = []
    for number in range(CHANGES):
        changed = _stored(raw(adapter("m0", "a0", uri=f"file:///adapters/{number}")))
        store.commit({**entries, changed.name: changed})
        spent.append(_cpu_s(lambda: world.push(store.head)))
    sent = world.bytes_sent / CHANGES / count
    storm_s = _cpu_s(world.reconnect_all)
    change_s = sorted(spent)[len(spent) // 2]
    return (
        f"{count:11,} | {kilobytes:9.1f} | {change_s * 1e3:9.1f} | {change_s / count * 1e6:13.0f} | "
        f"{sent:16.0f} | {storm_s / count * 1e6:20.0f}"
    )


def _stored(entry: RawEntry) -> Entry:
    return Entry(name=entry.name, type=entry.type, digest=entry.digest, blob=entry.blob)


# -- a data plane ----------------------------------------------------------------------------------


def _data_plane(count: int) -> str:
    gc.collect()
    before = _resident_bytes()
    entries = tuple(sorted(_catalog(count), key=lambda entry: entry.name))
    at = position_of(entries, 1)
    gc.disable()  # an agent freezes what it holds; the collector would walk it again and again
    try:
        held: list[Snapshot] = []

        def check() -> None:
            outcome = accept(at, entries, held=None, policy=POLICY)
            assert isinstance(outcome, Snapshot), outcome
            held.append(outcome)

        first_s = _cpu_s(check)
        each = (_resident_bytes() - before) / count
        spent, digest_s, size = [], [], 0
        for number in range(CHANGES):
            before_it = held.pop()
            entry = raw(adapter("m0", "a0", uri=f"file:///changed/{number}"))
            old = before_it.adapters[entry.name]
            digest_s.append(_cpu_s(lambda: _moved(before_it.digest, raw(old), entry)))  # noqa: B023  # it runs at once
            root = _moved(before_it.digest, raw(old), entry).root()
            to = position_of((), before_it.position.revision + 1)
            to = type(to)(store_uid=to.store_uid, revision=to.revision, digest=root)
            change = Change(base=before_it.position, entries=(entry,), removed=frozenset())
            size = len(entry.name) + len(entry.type) + len(entry.digest) + len(entry.blob)
            spent.append(_cpu_s(lambda: held.append(_changed(to, change, before_it))))  # noqa: B023  # it runs at once
    finally:
        gc.enable()
    # Of small catalogs, the memory that the process has freed before is used again.
    memory = f"{each:.0f}" if count >= MEMORY_ENTRIES_MIN else "-"
    whole = sum(len(entry.name) + len(entry.type) + len(entry.digest) + len(entry.blob) for entry in entries)
    return (
        f"{count:9,} | {whole / 1e6:8.1f} | {memory:>21} | {first_s:13.2f} | "
        f"{sorted(spent)[len(spent) // 2] * 1e3:9.2f} | {size:17} | {sorted(digest_s)[len(digest_s) // 2] * 1e6:9.0f}"
    )


def _changed(to: object, change: Change, held: Snapshot) -> Snapshot:
    outcome = apply_change(to, change, held, POLICY)  # type: ignore[arg-type]  # it is a position
    assert isinstance(outcome, Snapshot), outcome
    return outcome


def _moved(digest: CatalogDigest, old: RawEntry, new: RawEntry) -> CatalogDigest:
    return digest.removed(old.name, old.type, old.digest).added(new.name, new.type, new.digest)


def _catalog(count: int) -> Iterator[RawEntry]:
    """A model for each thousand entries; the others are its adapters."""
    for number in range(count):
        owner, index = divmod(number, 1_000)
        message: snapshot_pb2.ModelEntry | snapshot_pb2.AdapterEntry
        message = adapter(f"m{owner}", f"a{index - 1}") if index else model(f"m{owner}")
        yield raw(message)


# -- measuring -------------------------------------------------------------------------------------


def _cpu_s(call: Callable[[], object]) -> float:
    started_s = time.process_time()
    call()
    return time.process_time() - started_s


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _say(line: str | Sequence[str]) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
