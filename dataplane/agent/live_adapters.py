"""Which adapters the replicas of an application may not keep loaded, and which are new. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from broadsheet.v1 import snapshot_pb2
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.openai.wire import encode_adapter
from dataplane.relay.messages import EngineReport, LiveAdapters
from dataplane.snapshot.snapshot import Snapshot

NEWEST_MAX = 32
"""Adapters that a running replica tries to load because they are new. Of a larger change at once,
the others are loaded when somebody asks for them."""
_CATALOG_REVISION_MAX = 2**63


def live_adapters(snapshot: Snapshot, model: str, left: frozenset[str]) -> LiveAdapters:
    """What the replicas of an application are told.

    Args:
        snapshot: The active one.
        model: Resource name of the application's model.
        left: From `left_adapters`.
    """
    newest = islice(_newest_first(snapshot, model), NEWEST_MAX)
    return LiveAdapters(
        catalog_revision=snapshot.position.revision, left=left, newest=tuple(map(encode_adapter, newest))
    )


def _newest_first(snapshot: Snapshot, model: str) -> Iterator[snapshot_pb2.AdapterEntry]:
    for (found, _, _), adapter in snapshot.adapters_by_age.items_before((model, _CATALOG_REVISION_MAX, "")):
        if found != model:
            return
        yield adapter


def left_adapters(snapshot: Snapshot, model: str, reports: Iterable[EngineReport]) -> frozenset[str]:
    """Engine-side names that replicas of a model have reported, and that are not in the catalog.

    Args:
        snapshot: The active one.
        model: Resource name of the model.
        reports: Of the replicas of one application.
    """
    reported = {name for report in reports for name in (*report.adapters, *report.failed_adapters)}
    return frozenset(name for name in reported if not _is_live(snapshot, model, name))


def _is_live(snapshot: Snapshot, model: str, name: str) -> bool:
    adapter = adapter_named(snapshot, name)
    return adapter is not None and adapter.model == model


def adapter_named(snapshot: Snapshot, name: str) -> snapshot_pb2.AdapterEntry | None:
    """The adapter, or pinned revision of one, with an engine-side name; None: there is none."""
    served_name = name.rpartition("@")[0]
    adapter = snapshot.served.get(served_name)
    if not isinstance(adapter, snapshot_pb2.AdapterEntry):
        adapter = snapshot.pinned_adapters.get(served_name)
    return adapter if adapter is not None and engine_adapter_name(adapter) == name else None


def untried_adapters(snapshot: Snapshot, tried: Mapping[str, int]) -> Iterator[snapshot_pb2.AdapterEntry]:
    """The adapters that are newer than what all replicas of their model have tried.

    Args:
        snapshot: The active one.
        tried: By model: up to which catalog revision.
    """
    for model, revision in tried.items():
        for (found, _, _), adapter in snapshot.adapters_by_age.items_from((model, revision + 1, "")):
            if found != model:
                break
            yield adapter
