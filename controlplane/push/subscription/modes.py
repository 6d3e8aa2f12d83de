"""How a snapshot is sent to a client. Pure."""

from __future__ import annotations

from collections.abc import Container
from typing import TypeAlias

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.catalog.domain import Position

Mode: TypeAlias = pb.Intent.Mode.ValueType
Features: TypeAlias = Container[pb.Feature.ValueType]


def mode_for(head: Position, serving: Position | None, features: Features, diverged: Mode) -> Mode:
    """How to send the head.

    Args:
        head: The snapshot to send.
        serving: What the client serves; None: nothing.
        features: What the client takes.
        diverged: The mode that did not lead the client to the head; UNSPECIFIED: none was tried.
    """
    if head == serving:
        return pb.Intent.MODE_NONE
    if pb.FEATURE_DELTA in features and not diverged and serving is not None and _is_before(serving, head):
        return pb.Intent.MODE_DELTA
    return mode_without_change(serving, features, diverged)


def mode_without_change(serving: Position | None, features: Features, diverged: Mode) -> Mode:
    """How to send a snapshot that no change leads to. The arguments are as in `mode_for`."""
    if serving is not None and pb.FEATURE_MANIFEST in features and diverged != pb.Intent.MODE_MANIFEST:
        return pb.Intent.MODE_MANIFEST
    return pb.Intent.MODE_FULL


def _is_before(serving: Position, to: Position) -> bool:
    return serving.store_uid == to.store_uid and serving.revision < to.revision
