"""The actions that a plan may hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broadsheet.v1 import snapshot_pb2
from dataplane.snapshot.activation import ModelActivation


@dataclass(frozen=True, slots=True)
class Deploy:
    """Make this application for this entry."""

    application: str
    entry: snapshot_pb2.ModelEntry


@dataclass(frozen=True, slots=True)
class Rescale:
    """Give this application the scaling of this entry. Its replicas keep running."""

    application: str
    entry: snapshot_pb2.ModelEntry


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete this application."""

    application: str


@dataclass(frozen=True, slots=True)
class Sleep:
    """Put the replicas of this application to sleep."""

    application: str


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake the replicas of this application."""

    application: str


Action = Deploy | Rescale | Delete | Sleep | Wake


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now, and the activation that goes with it."""

    actions: tuple[Action, ...]
    """In the order in which they are to be carried out."""
    models: Mapping[str, ModelActivation]
    """By model or pinned revision. Models that are IDLE without an application are left out."""
