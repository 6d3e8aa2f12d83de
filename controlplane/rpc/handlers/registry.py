"""The registry as its handlers see it: the store, and what surrounds it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from broadsheet.v1 import snapshot_pb2, status_pb2
from controlplane.adapters.verification import AdapterVerifier
from controlplane.catalog.convert import ReportedStatus
from controlplane.catalog.domain import Head
from controlplane.store.store import Store
from protocol.engine_args import ALL


class ResourceStatuses(Protocol):
    """The state of a model or adapter on each data plane, by data plane id."""

    def of(self, name: str, *, idle_since_revision: int | None = None) -> Sequence[ReportedStatus]:
        """The states that were reported.

        Args:
            name: Resource name of the model or adapter.
            idle_since_revision: For an adapter, the catalog revision of its last change. Data
                planes do not report idle adapters: one that serves this revision and reports
                nothing else has the adapter IDLE.
        """

    def states_of(
        self, name: str, *, idle_since_revision: int | None = None
    ) -> Collection[status_pb2.ResourceState.ValueType]:
        """The states at the connected data planes. The arguments are as in `of`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """What handlers share. All of it lives as long as the process."""

    store: Store
    """Holds the catalog and its history. Requests change it through `idempotency.commit`."""
    adapter_verifier: AdapterVerifier
    """Reads and checks the files of adapters."""
    resource_statuses: ResourceStatuses
    """What data planes have reported."""
    allowed_engine_args: tuple[str, ...] = (ALL,)
    """Privileged engine arguments that publishers may set; `*`: all."""
    signed_head: Callable[[Head], snapshot_pb2.SignedHead | None] = lambda head: None
    """The signed head of a snapshot; None: this control plane does not sign."""
