"""The relay's core: values by key, who may write them, and what has changed since a cursor. Pure.

Values are opaque bytes. Times are seconds on one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dataplane.relay.errors import NotOwnerError, RelayFullError
from dataplane.relay.topic_log import Entry, LogChanges, TopicLog
from dataplane.relay.topics import ROLE_OF, Key, Role, Topic, Watched, Writer
from dataplane.relay.writers import WriterRecord, Writers
from protocol.snapshot_limits import SNAPSHOT_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of the relay. All are far above what 10,000 models and 1,000 replicas need."""

    keys_max: int = 200_000
    """Over all topics."""
    bytes_max: int = SNAPSHOT_BYTES_MAX + 1024**3
    """Of all values together: the largest snapshot, and 1 GiB for the digests of its entries, for
    128 MiB of changes after it, and for everything else. A snapshot of 100,000 entries has some
    100 MB."""
    name_characters_max: int = 512
    """Of a key's name; application names and replica ids are under 200."""
    writers_max: int = 20_000
    removals_max: int = 10_000
    """Removals that are remembered per topic. A watcher that is further behind reads everything
    again."""
    writer_lifetime_s: float = 60.0
    """After this long without a put a replica is gone, and its keys are removed. Replicas put every
    2 s; the margin is for a blocked event loop."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a watcher has read."""

    epoch: str
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredChanges:
    """What has changed for a watcher, as it is stored."""

    cursor: Cursor
    """To ask with the next time."""
    is_complete: bool
    """`changed` is all that there is of what is watched."""
    changed: Mapping[Key, bytes]
    removed: tuple[Key, ...]
    """Empty when `is_complete`."""


@dataclass(frozen=True, slots=True)
class PutResult:
    """What the writer learns from a put."""

    epoch: str
    is_new_writer: bool
    """The relay did not know this process: it has to put all its keys."""


class RelayState:
    """Everything that the relay holds, except messages."""

    def __init__(self, *, epoch: str, limits: Limits) -> None:
        self.epoch = epoch
        """Identifies this state. It is new after each restart, which loses everything."""
        self._limits = limits
        self._sequence = 0
        """Rises with each put. All topics share it, so a single number is a watcher's cursor."""
        self._logs = {topic: TopicLog(removals_max=limits.removals_max) for topic in Topic}
        self._writers = Writers(writers_max=limits.writers_max)
        self._bytes = 0

    def put(self, writer: Writer, values: Mapping[Key, bytes], removed: Sequence[Key], now: float) -> PutResult:
        """Set and remove keys of `writer`, all or none. Removing a missing key does nothing.

        Raises:
            WriterReplacedError: a newer process has this writer's name.
            NotOwnerError: a key belongs to another writer or another role.
            RelayFullError: a bound is reached.
        """
        self._check(writer, values, removed)
        record, is_new = self._writers.seen(writer, now)
        self._sequence += 1
        for key, value in values.items():
            self._put(key, Entry(self._sequence, value, writer.name), record)
        for key in removed:
            self._remove(key)
            record.keys.discard(key)
        return PutResult(self.epoch, is_new)

    def claim(self, writer: Writer, at_least: int) -> int:
        """Number a new process of an agent's name. See `Writers.claim`.

        Raises:
            NotOwnerError: the writer is a replica, whose id is unique.
        """
        if writer.role is not Role.AGENT:
            raise NotOwnerError(f"{writer.name}: only agents are numbered, not {writer.role}")
        return self._writers.claim(writer, at_least)

    def changes(self, watched: Iterable[Watched], cursor: Cursor | None) -> StoredChanges:
        """What has changed since `cursor`; None or a cursor of another epoch: all that there is."""
        watched = tuple(watched)
        is_complete = (
            cursor is None
            or cursor.epoch != self.epoch
            or not all(self._log(item).knows_since(cursor.sequence) for item in watched)
        )
        since = 0 if is_complete or cursor is None else cursor.sequence
        changed: dict[Key, bytes] = {}
        removed: set[Key] = set()
        for item in watched:
            topic, found = self._changes_of(item, since)
            changed.update((Key(topic, name), value) for name, value in found.changed.items())
            if not is_complete:
                removed.update(Key(topic, name) for name in found.removed)
        return StoredChanges(
            cursor=Cursor(self.epoch, self._sequence),
            is_complete=is_complete,
            changed=changed,
            removed=tuple(removed),
        )

    def expire(self, now: float) -> list[Key]:
        """Remove the keys of replicas that have put nothing for their lifetime.

        Returns:
            The removed keys.
        """
        keys = self._writers.expire(now - self._limits.writer_lifetime_s)
        self._sequence += bool(keys)
        for key in keys:
            self._remove(key)
        return keys

    def is_current(self, writer: Writer) -> bool:
        """Whether no newer process has this writer's name."""
        return self._writers.is_current(writer)

    def _check(self, writer: Writer, values: Mapping[Key, bytes], removed: Sequence[Key]) -> None:
        self._writers.check(writer)
        added_keys = added_bytes = 0
        for key in (*values, *removed):
            if ROLE_OF[key.topic] is not writer.role:
                raise NotOwnerError(f"{key.topic}: writers are {ROLE_OF[key.topic]}, not {writer.role}")
            entry = self._logs[key.topic].get(key.name)
            if entry is not None and entry.owner != writer.name:
                raise NotOwnerError(f"{key.topic}/{key.name}: belongs to {entry.owner}, not to {writer.name}")
            if key in values:
                added_keys += entry is None
                added_bytes += len(values[key]) - (len(entry.value) if entry is not None else 0)
            if len(key.name) > self._limits.name_characters_max:
                raise RelayFullError(f"{key.topic}: a name of {len(key.name)} characters")
        if added_keys and sum(map(len, self._logs.values())) + added_keys > self._limits.keys_max:
            raise RelayFullError(f"there are {self._limits.keys_max} keys already, which is the limit")
        if added_bytes > 0 and self._bytes + added_bytes > self._limits.bytes_max:
            raise RelayFullError(f"values take up {self._limits.bytes_max} bytes already, which is the limit")

    def _put(self, key: Key, entry: Entry, record: WriterRecord) -> None:
        log = self._logs[key.topic]
        before = log.get(key.name)
        self._bytes += len(entry.value) - (len(before.value) if before is not None else 0)
        log.put(key.name, entry)
        record.keys.add(key)

    def _remove(self, key: Key) -> None:
        entry = self._logs[key.topic].remove(key.name, self._sequence)
        if entry is not None:
            self._bytes -= len(entry.value)

    def _log(self, watched: Watched) -> TopicLog:
        return self._logs[watched.topic if isinstance(watched, Key) else watched]

    def _changes_of(self, watched: Watched, since: int) -> tuple[Topic, LogChanges]:
        if isinstance(watched, Key):
            return watched.topic, self._logs[watched.topic].since_for(watched.name, since)
        return watched, self._logs[watched].since(since)
