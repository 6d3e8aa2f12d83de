"""The keys of one topic in the order of their last change. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Entry:
    """The current value of a key."""

    version: int
    """The relay's sequence number when it was put."""
    value: bytes
    owner: str
    """Name of the writer."""


@dataclass(slots=True)
class LogChanges:
    """What has changed in one topic since a version."""

    changed: dict[str, bytes] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)


class TopicLog:
    """Current values and recent removals of one topic.

    Both are ordered by version, oldest first. What has changed since a version is therefore at the
    end, and finding it takes time in proportion to how much that is, not to the number of keys.

    Invariant: no key is in both.
    """

    def __init__(self, *, removals_max: int) -> None:
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._removals: OrderedDict[str, int] = OrderedDict()
        """Version of each removal, by name."""
        self._removals_max = removals_max
        self._complete_from = 0
        """Changes are known completely since this version: that of the last dropped removal."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> Entry | None:
        """The current value of a key; None: there is none."""
        return self._entries.get(name)

    def put(self, name: str, entry: Entry) -> None:
        """Set a key. `entry.version` is higher than any version before."""
        self._entries[name] = entry
        self._entries.move_to_end(name)
        self._removals.pop(name, None)

    def remove(self, name: str, version: int) -> Entry | None:
        """Remove a key. Returns what it was; None: there was none, and nothing changed."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return None
        self._removals[name] = version
        if len(self._removals) > self._removals_max:
            _, self._complete_from = self._removals.popitem(last=False)
        return entry

    def knows_since(self, version: int) -> bool:
        """Whether every change since `version` is still known; if not, read everything again."""
        return version >= self._complete_from

    def since(self, version: int) -> LogChanges:
        """What has changed since `version`. Only valid while `knows_since` holds."""
        found = LogChanges()
        for name, entry in reversed(self._entries.items()):
            if entry.version <= version:
                break
            found.changed[name] = entry.value
        for name, removed_at in reversed(self._removals.items()):
            if removed_at <= version:
                break
            found.removed.append(name)
        return found

    def since_for(self, name: str, version: int) -> LogChanges:
        """The same for a single key, in constant time."""
        entry = self._entries.get(name)
        if entry is not None:
            return LogChanges({name: entry.value}) if entry.version > version else LogChanges()
        return LogChanges(removed=[name]) if self._removals.get(name, 0) > version else LogChanges()
