"""The adapters that one engine replica has loaded, or could not load."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from broadsheet.v1 import snapshot_pb2
from dataplane.engine.adapters import AdapterCache
from dataplane.errors import AdapterError
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.relay.messages import LiveAdapters

RETRY_FIRST_S = 2.0
"""Pause after the first failure of an adapter. It doubles with each further one."""
RETRY_MAX_S = 60.0
"""Longest pause: files that are put back are found within a minute."""
FAILURES_MAX = 256
"""Failures that are remembered. The oldest is forgotten first, and then tried again at once."""
_MESSAGE_CHARACTERS_MAX = 1000
"""With the limit above, a report of failures has at most about 256 KB."""


@dataclass(frozen=True, slots=True)
class _LoadedAdapter:
    entry: snapshot_pb2.AdapterEntry
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an adapter could not be loaded."""

    entry: snapshot_pb2.AdapterEntry
    reason: str
    """UPPER_SNAKE."""
    message: str
    """The engine's own words."""
    tries: int
    retry_at: float
    """When it is tried again, in seconds on the clock of the owner."""


class ReplicaAdapters:
    """Loaded and failed adapters by engine-side name. Their files are in `cache`.

    An adapter that fails is not tried again for a while, and fails alone. A new revision of it is
    tried at once.
    """

    def __init__(
        self,
        cache: AdapterCache,
        load: Callable[[str, Path], Awaitable[None]],
        *,
        clock: Callable[[], float],
        on_tried: Callable[[snapshot_pb2.AdapterEntry, AdapterError | None], None],
    ) -> None:
        """
        Args:
            cache: Has the files.
            load: Has the engine load an adapter from a directory; raises AdapterError.
            clock: Seconds on a clock that never steps.
            on_tried: Called after each try, with its error; None: it is loaded.
        """
        self._cache = cache
        self._load = load
        self._clock = clock
        self._on_tried = on_tried
        self._loaded: dict[str, _LoadedAdapter] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, Failure] = {}
        self._leaving: set[str] = set()

    @property
    def failures(self) -> Mapping[str, Failure]:
        """By engine-side name."""
        return self._failures

    async def ensure(self, entry: snapshot_pb2.AdapterEntry) -> None:
        """Have the engine load an adapter, unless it has.

        Raises:
            AdapterError: its files are missing, unreadable, or not those that were registered, or
                the engine cannot load it. Or it is being unloaded, so it has left the catalog.
        """
        name = engine_adapter_name(entry)
        if name in self._leaving:
            raise AdapterError("it is being unloaded", reason="ADAPTER_LEAVING", retry_after_s=RETRY_FIRST_S)
        if name in self._loaded:
            return
        self._refuse_for_a_while(name, entry)
        task = self._loading.get(name)
        if task is None:
            # A task of its own: a caller who leaves does not end it for the others.
            task = asyncio.create_task(self._fetch_and_load(name, entry), name=f"load {name}")
            self._loading[name] = task
            task.add_done_callback(lambda done: self._finished(name, done))
        await asyncio.shield(task)

    def _refuse_for_a_while(self, name: str, entry: snapshot_pb2.AdapterEntry) -> None:
        failure = self._failures.get(name)
        if failure is None or failure.entry.revision.number != entry.revision.number:
            return
        left_s = failure.retry_at - self._clock()
        if left_s > 0:
            raise AdapterError(failure.message, reason=failure.reason, retry_after_s=left_s)

    async def _fetch_and_load(self, name: str, entry: snapshot_pb2.AdapterEntry) -> None:
        try:
            path = await self._cache.ensure(entry)
            await self._load(name, path)
        except AdapterError as error:
            pause_s = self._note_failure(name, entry, error)
            self._on_tried(entry, error)
            raise AdapterError(str(error), reason=error.reason, retry_after_s=pause_s) from error
        self._loaded[name] = _LoadedAdapter(entry, path)
        self._failures.pop(name, None)
        self._on_tried(entry, None)

    def _note_failure(self, name: str, entry: snapshot_pb2.AdapterEntry, error: AdapterError) -> float:
        before = self._failures.pop(name, None)
        tries = before.tries + 1 if before and before.entry.revision.number == entry.revision.number else 1
        pause_s: float = min(RETRY_MAX_S, RETRY_FIRST_S * 2.0 ** min(tries - 1, 10))
        self._failures[name] = Failure(
            entry=entry,
            reason=error.reason,
            message=str(error)[:_MESSAGE_CHARACTERS_MAX],
            tries=tries,
            retry_at=self._clock() + pause_s,
        )
        if len(self._failures) > FAILURES_MAX:
            del self._failures[next(iter(self._failures))]
        return pause_s

    def _finished(self, name: str, task: asyncio.Task[None]) -> None:
        del self._loading[name]
        if not task.cancelled():
            task.exception()  # retrieved here in case that every caller has left

    def stale(self, live: LiveAdapters) -> list[str]:
        """The loaded adapters that have left the catalog. Failures of such adapters are forgotten.

        `live` may be older than an adapter that has come back, and then says nothing of it.
        """
        self._failures = {
            name: failure for name, failure in self._failures.items() if not _has_left(name, failure.entry, live)
        }
        return [name for name, adapter in self._loaded.items() if _has_left(name, adapter.entry, live)]

    @contextlib.contextmanager
    def leaving(self, name: str) -> Iterator[None]:
        """While an adapter is unloaded, `ensure` refuses it. Unused now, it stays unused."""
        self._leaving.add(name)
        try:
            yield
        finally:
            self._leaving.discard(name)

    def drop(self, name: str) -> snapshot_pb2.AdapterEntry:
        """Give an adapter up. Its files stay until `remove_files`.

        Raises:
            KeyError: it is not loaded.
        """
        return self._loaded.pop(name).entry

    async def remove_files(self, entry: snapshot_pb2.AdapterEntry) -> None:
        """Remove the files of a dropped adapter, unless another one has the same weights."""
        digest = entry.revision.weights.digest
        if all(other.entry.revision.weights.digest != digest for other in self._loaded.values()):
            await self._cache.forget(digest)


def _has_left(name: str, entry: snapshot_pb2.AdapterEntry, live: LiveAdapters) -> bool:
    return name in live.left and entry.revision.catalog_revision <= live.catalog_revision
