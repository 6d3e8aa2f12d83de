"""Catalogs of a few entries, and changes of them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from broadsheet.v1 import api_key_pb2, snapshot_pb2
from controlplane.catalog.domain import Entry
from protocol.api_keys import HASH_BYTES
from tests.raw import adapter, model, raw

GHOST = "ghost"
"""A model that no catalog has."""

CHANGES = (
    "model",
    "adapter",
    "route",
    "key",
    "forbidden",
    "delete_model",
    "delete_adapter",
    "revoke",
    "dangling",
    "back",
)
"""Kinds of changes. `forbidden`: a model that data planes quarantine. `dangling`: an adapter
without its base, as a broken registry would make it: data planes reject the snapshot. `back`: the
catalog as it was before the last changes."""


@functools.lru_cache(maxsize=10_000)
def _entry(kind: str, first: int, second: int, number: int) -> Entry:
    made = raw(_message(kind, first, second, number))
    return Entry(name=made.name, type=made.type, digest=made.digest, blob=made.blob)


def _message(
    kind: str, first: int, second: int, number: int
) -> snapshot_pb2.ModelEntry | snapshot_pb2.AdapterEntry | snapshot_pb2.RouteEntry | api_key_pb2.ApiKeyEntry:
    match kind:
        case "model":
            return model(f"m{first}", number=number)
        case "forbidden":
            return model(f"m{first}", number=number, uri="s3://forbidden/m")
        case "adapter":
            return adapter(f"m{first}", f"a{second}", uri=f"file:///adapters/{number}")
        case "dangling":
            return adapter(GHOST, f"a{second}")
        case "route":
            return _route(first, second, number)
    return _key(first, number, revoked=kind == "revoke")


def _route(route: int, target: int, number: int) -> snapshot_pb2.RouteEntry:
    entry = snapshot_pb2.RouteEntry(name=f"routes/r{route}", uid=f"uid-r{route}", served_name=f"r{route}")
    entry.revision.name = f"routes/r{route}/revisions/{number}"
    entry.revision.number = number
    entry.revision.spec.targets.add(resource=f"models/m{target}", weight=1)
    return entry


def _key(key: int, number: int, *, revoked: bool) -> api_key_pb2.ApiKeyEntry:
    entry = api_key_pb2.ApiKeyEntry(name=f"apiKeys/k{key}", uid=f"uid-k{key}", revoked=revoked)
    if not revoked:
        entry.key_hash = bytes([key, number % 256]) * (HASH_BYTES // 2)
        entry.limits.allowed_served_names.append("*")
    return entry


Change = tuple[str, int, int]
"""Kind, and two small numbers that choose what it is about."""


@dataclass(slots=True)
class Catalog:
    """What the registry holds. The same changes make the same catalog."""

    entries: dict[str, Entry] = field(default_factory=dict)
    """By name."""
    _numbers: int = 0
    _before: list[Mapping[str, Entry]] = field(default_factory=list)

    def change(self, change: Change) -> Mapping[str, Entry]:
        """Make a change. Returns the entries of the snapshot that has it, by name."""
        kind, first, second = change
        self._numbers += 1
        self._before = [*self._before[-3:], dict(self.entries)]
        match kind:
            case "delete_model":
                self._delete_model(first)
            case "delete_adapter":
                self.entries.pop(f"models/m{first}/adapters/a{second}", None)
            case "back":
                self.entries = dict(self._before[0])
            case "dangling":
                broken = _entry(kind, first, second, 1)
                return {**self.entries, broken.name: broken}
            case "adapter" | "route" if f"models/m{first if kind == 'adapter' else second}" not in self.entries:
                self._put("model", first if kind == "adapter" else second, 0)
            case _:
                self._put(kind, first, second)
        return dict(self.entries)

    def _put(self, kind: str, first: int, second: int) -> None:
        entry = _entry(kind, first, second, self._numbers)
        self.entries[entry.name] = entry

    def _delete_model(self, number: int) -> None:
        name = f"models/m{number}"
        if any(_targets(entry) == name for entry in self.entries.values()):
            return  # the registry refuses it, too
        for entry_name in [entry for entry in self.entries if entry == name or entry.startswith(f"{name}/")]:
            del self.entries[entry_name]


def _targets(entry: Entry) -> str:
    if not entry.name.startswith("routes/"):
        return ""
    return snapshot_pb2.RouteEntry.FromString(entry.blob).revision.spec.targets[0].resource
