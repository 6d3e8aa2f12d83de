"""From the name that a caller asked for to the replica that answers. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from dataplane.activation import Endpoint, ModelActivation, State, View
from modelplane.v1 import snapshot_pb2

AFFINITY_SLACK_REQUESTS = 8
"""How many more requests an adapter's home may have in flight than its second home before that one is taken. Half of
the default target of a replica: waiting behind eight requests costs less than loading an adapter (seconds)."""

_IDLE = ModelActivation(state=State.IDLE, revision_number=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What a served name means in one view."""

    served_name: str
    model: snapshot_pb2.ModelEntry
    """The model, or the adapter's base."""
    adapter: snapshot_pb2.AdapterEntry | None
    activation: ModelActivation
    """Of the model; IDLE where the view has none."""

    @property
    def model_revision_name(self) -> str:
        """Resource name of the model revision that answers."""
        return f"{self.model.name}/revisions/{self.activation.revision_number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFound:
    """The view has no such served name."""

    served_name: str


def resolve(view: View, served_name: str) -> Route | NotFound:
    """Look a served name up: by lookup only, never by taking the name apart."""
    entry = view.snapshot.served.get(served_name)
    if entry is None:
        return NotFound(served_name=served_name)
    if isinstance(entry, snapshot_pb2.AdapterEntry):
        model, adapter = view.snapshot.models[entry.model], entry
    else:
        model, adapter = entry, None
    activation = view.activation.models.get(model.name, _IDLE)
    return Route(served_name=served_name, model=model, adapter=adapter, activation=activation)


def choose_endpoint(
    endpoints: Sequence[Endpoint],
    in_flight: Mapping[str, int],
    *,
    limit: int,
    affinity: str | None,
    avoid: Container[str],
    down: Container[str],
    randrange: Callable[[int], int],
) -> Endpoint | None:
    """Pick the endpoint of one request, or None when none has room.

    Without affinity: the less loaded of two drawn at random (Mitzenmacher, "The Power of Two Choices in Randomized
    Load Balancing", 2001). With affinity, the two are the adapter's homes: the first two in the rendezvous order of
    its name (Thaler and Ravishankar, 1998), which is the same in every ingress and moves only with its own endpoint.

    Args:
        endpoints: those of the current activation.
        in_flight: this ingress's own requests in flight, by replica id.
        limit: requests in flight that one endpoint may have.
        affinity: engine-side name of the adapter asked for.
        avoid: replica ids that this request has tried; taken only when no other has room.
        down: replica ids that lately refused connections; taken only when all are such.
        randrange: `random.Random.randrange`.
    """
    standing = [endpoint for endpoint in endpoints if endpoint.replica_id not in down] or endpoints

    def has_room(endpoint: Endpoint) -> bool:
        return in_flight.get(endpoint.replica_id, 0) < limit

    def load(endpoint: Endpoint) -> int:
        return in_flight.get(endpoint.replica_id, 0)

    first, second = _two(standing, affinity, randrange)
    if load(first) > load(second) + (AFFINITY_SLACK_REQUESTS if affinity is not None else 0):
        first, second = second, first
    for endpoint in (first, second):
        if has_room(endpoint) and endpoint.replica_id not in avoid:
            return endpoint
    with_room = [endpoint for endpoint in standing if has_room(endpoint)]
    untried = [endpoint for endpoint in with_room if endpoint.replica_id not in avoid]
    return min(untried or with_room, key=load, default=None)


def _two(
    endpoints: Sequence[Endpoint], affinity: str | None, randrange: Callable[[int], int]
) -> tuple[Endpoint, Endpoint]:
    """Two different endpoints; twice the same where there is only one."""
    if len(endpoints) == 1:
        return endpoints[0], endpoints[0]
    if affinity is not None:
        ranked = sorted(endpoints, key=lambda endpoint: _rendezvous_weight(affinity, endpoint), reverse=True)
        return ranked[0], ranked[1]
    first = randrange(len(endpoints))
    second = randrange(len(endpoints) - 1)
    return endpoints[first], endpoints[second + (second >= first)]


def _rendezvous_weight(affinity: str, endpoint: Endpoint) -> bytes:
    return hashlib.blake2b(f"{affinity}\0{endpoint.replica_id}".encode(), digest_size=8).digest()
