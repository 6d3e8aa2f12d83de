"""An admission under test, with its views and its clock."""

from __future__ import annotations

import asyncio
from collections.abc import Container
from dataclasses import dataclass, field
from random import Random

import pytest

from dataplane.ingress.admission.admission import Admission
from dataplane.ingress.admission.load import Lease
from dataplane.ingress.view_holder import ViewHolder
from dataplane.snapshot.activation import ModelActivation, State, View
from dataplane.snapshot.snapshot import Snapshot
from tests import views

DEPLOYING = ModelActivation(state=State.DEPLOYING, revision_number=1)
IDLE = ModelActivation(state=State.IDLE, revision_number=1)
FAILED = ModelActivation(
    state=State.FAILED, revision_number=1, reason="OUT_OF_MEMORY", message="too big", retry_after_s=4
)
CATALOG = views.snapshot(views.model("m"), views.adapter("m", "a"), views.model("other"))


def limited(**admission: object) -> Snapshot:
    return views.snapshot(views.model("m", admission=admission), views.adapter("m", "a"))


@dataclass
class Desk:
    """An `Admission` with a clock of its own."""

    views: ViewHolder = field(default_factory=ViewHolder)
    woken: list[str] = field(default_factory=list)
    now: float = 100.0

    def __post_init__(self) -> None:
        self.admission = Admission(views=self.views, wake=self.woken.append, random=Random(0), clock=lambda: self.now)
        self.views.subscribe(self.admission.on_view)

    def show(self, catalog: Snapshot, **activations: ModelActivation) -> View:
        view = views.view(catalog, activations)
        self.views.swap(view)
        return view

    async def acquire(self, name: str, *, avoid: Container[str] = (), caller: str = "") -> Lease:
        """Request a model `m` or an adapter `m:a` by its default served name."""
        model_id, _, adapter_id = name.partition(":")
        resource = f"models/{model_id}/adapters/{adapter_id}" if adapter_id else f"models/{model_id}"
        return await self.admission.acquire(resource, name, avoid=avoid, caller=caller)

    async def ask(self, name: str = "m", *, caller: str = "") -> asyncio.Task[Lease]:
        """Start a request, and let it run until it waits."""
        task = asyncio.create_task(self.acquire(name, caller=caller))
        await settle()
        return task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def cancel(task: asyncio.Task[Lease]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
