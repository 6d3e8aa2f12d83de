"""The relay's writers: the current process of each name, and the keys that it owns. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from dataplane.relay.errors import RelayFullError, WriterReplacedError
from dataplane.relay.topics import Key, Role, Writer


@dataclass(slots=True)
class WriterRecord:
    """What is known of the current writer of a name."""

    incarnation: int
    seen_at: float
    """When it last put something; seconds on a monotonic clock."""
    keys: set[Key] = field(default_factory=set)
    """The keys that it owns."""


class Writers:
    """The current writer of each name, ordered by when they were last seen, oldest first."""

    def __init__(self, *, writers_max: int) -> None:
        self._records: OrderedDict[str, WriterRecord] = OrderedDict()
        self._agents: dict[str, WriterRecord] = {}
        """Apart, because what an agent has put outlives it: its successor starts from that."""
        self._writers_max = writers_max
        self._claimed: dict[str, int] = {}
        """The last incarnation that was given to each agent's name. There is a single name."""

    def claim(self, writer: Writer, at_least: int) -> int:
        """A new incarnation for an agent, above all that are known, and at least `at_least`."""
        record = self._agents.get(writer.name)
        known = max(record.incarnation if record is not None else 0, self._claimed.get(writer.name, 0))
        self._claimed[writer.name] = max(known + 1, at_least)
        return self._claimed[writer.name]

    def check(self, writer: Writer) -> None:
        """Refuse a writer that may not write now. Changes nothing.

        Raises:
            WriterReplacedError: a newer process of that name has written.
            RelayFullError: it is new, and there are too many.
        """
        record = self._table(writer).get(writer.name)
        if record is not None and record.incarnation > writer.incarnation:
            raise WriterReplacedError(f"{writer.name}: a newer process writes under this name")
        if record is None and len(self._records) + len(self._agents) >= self._writers_max:
            raise RelayFullError(f"there are {self._writers_max} writers already, which is the limit")

    def seen(self, writer: Writer, now: float) -> tuple[WriterRecord, bool]:
        """Note that a writer has written, after `check`.

        A new process of a known name takes over the keys of the old one.

        Returns:
            Its record, and whether this process was not known before.
        """
        table = self._table(writer)
        record = table.get(writer.name)
        is_new = record is None or record.incarnation != writer.incarnation
        if record is None:
            record = table[writer.name] = WriterRecord(writer.incarnation, now)
        record.incarnation, record.seen_at = writer.incarnation, now
        if writer.role is not Role.AGENT:
            self._records.move_to_end(writer.name)
        return record, is_new

    def is_current(self, writer: Writer) -> bool:
        """Whether no newer process of that name has written."""
        record = self._table(writer).get(writer.name)
        return record is None or record.incarnation <= writer.incarnation

    def expire(self, before: float) -> list[Key]:
        """Forget the replicas that were last seen before that time.

        Returns:
            The keys that they owned.
        """
        keys: list[Key] = []
        while self._records:
            name, record = next(iter(self._records.items()))
            if record.seen_at >= before:
                break
            keys += record.keys
            del self._records[name]
        return keys

    def _table(self, writer: Writer) -> dict[str, WriterRecord]:
        return self._agents if writer.role is Role.AGENT else self._records
