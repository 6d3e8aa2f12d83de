"""Time of a whole catalog from the store to a data plane, in one process.

Run it with `python -m tests.bench.bench_sync`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import structlog

from dataplane.snapshot.accept import accept
from dataplane.snapshot.snapshot import Snapshot
from dataplane.sync.directory import SnapshotDirectory
from tests.raw import POLICY
from tests.stream.sync_world import PATIENCE_S, DataPlane, control_plane


async def measure(count: int, directory: Path) -> None:
    """Print the seconds of each step."""
    async with control_plane(directory / "registry") as plane:
        began = time.perf_counter()
        await plane.fill(count, text="x" * 300)
        print_time("fill the store", began)
        data_plane = DataPlane()
        began = time.perf_counter()
        async with data_plane.running(plane.address):
            snapshot = await until_active(data_plane, 1)
            print_time("FULL, first data plane: store, chunks, stream, check, index", began)
            size = sum(len(entry.blob) for entry in snapshot.entries)
            sys.stdout.write(f"  {count} entries, {size / 1e6:.0f} MB of blobs\n")
            began = time.perf_counter()
            await plane.register("one-more")
            await until_active(data_plane, 2)
            print_time("DELTA after one change: check, index", began)
            second = DataPlane()
            began = time.perf_counter()
            async with second.running(plane.address, "second"):
                await until_active(second, 2)
                print_time("FULL, second data plane: chunks are cached", began)
    await measure_disk(data_plane, directory)
    sys.stdout.write(
        f"  peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB\n"
    )


async def measure_disk(data_plane: DataPlane, directory: Path) -> None:
    snapshot = data_plane.snapshot
    assert snapshot is not None
    began = time.perf_counter()
    outcome = accept(snapshot.position, snapshot.entries, held=None, policy=POLICY)
    print_time("accept, nothing held", began)
    assert isinstance(outcome, Snapshot)
    began = time.perf_counter()
    accept(snapshot.position, snapshot.entries, held=snapshot, policy=POLICY)
    print_time("accept, all held", began)
    disk = SnapshotDirectory(directory / "catalog")
    disk.open()
    began = time.perf_counter()
    disk.save(snapshot)
    print_time("save to disk", began)
    began = time.perf_counter()
    disk.boot(functools.partial(accept, held=None, policy=POLICY))
    print_time("boot from disk", began)
    disk.close()


async def until_active(data_plane: DataPlane, revision: int) -> Snapshot:
    for _ in range(30):
        try:
            return await data_plane.active(revision)
        except TimeoutError:
            sys.stdout.write(f"  … still under way after {PATIENCE_S:g} s more\n")
    raise TimeoutError


def print_time(step: str, began: float) -> None:
    sys.stdout.write(f"  {time.perf_counter() - began:7.2f} s  {step}\n")


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory() as scratch:
        asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, Path(scratch)))
