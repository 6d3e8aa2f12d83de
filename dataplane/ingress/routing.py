"""From the name that a caller asked for to the replica that answers. Pure."""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from broadsheet.v1 import route_pb2, snapshot_pb2
from dataplane.snapshot.activation import Endpoint, ModelActivation, State, View
from dataplane.snapshot.snapshot import Snapshot, candidate_name, model_of

AFFINITY_SLACK_REQUESTS = 8
"""How many more requests an adapter's home may have in flight than its second home before that one
is taken. Half of the default target of a replica: waiting behind eight requests costs less than
loading an adapter (seconds)."""

_IDLE = ModelActivation(state=State.IDLE, revision_number=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What answers a request in one view."""

    served_name: str
    """What the caller asked for."""
    model: snapshot_pb2.ModelEntry
    """The model, the pinned revision of one, or the adapter's base."""
    adapter: snapshot_pb2.AdapterEntry | None
    activation: ModelActivation
    """Of the model; IDLE where the view has none."""

    @property
    def model_revision_name(self) -> str:
        """Resource name of the model revision that answers."""
        return f"{model_of(self.model.name)}/revisions/{self.activation.revision_number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFound:
    """The view has no such served name."""

    served_name: str


class Failing(enum.Enum):
    """Why a resource cannot answer a request that something else may."""

    UNAVAILABLE = enum.auto()
    """It has failed to start, is not served on this data plane, or none of its replicas can be
    reached."""
    QUEUE_FULL = enum.auto()
    """It has as many requests waiting as it may have."""


_CONDITIONS = {
    Failing.UNAVAILABLE: route_pb2.RouteFallback.CONDITION_UNAVAILABLE,
    Failing.QUEUE_FULL: route_pb2.RouteFallback.CONDITION_QUEUE_FULL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What one request goes to, and what it may go on to."""

    route: str
    """Resource name of the route that was asked for; empty: a model or adapter was."""
    resource: str
    """Resource name of what it goes to."""
    fallbacks: tuple[route_pb2.RouteFallback, ...] = ()
    """What is left to try, in this order."""

    def after(self, failing: Failing) -> Choice | None:
        """What to try next when `resource` cannot answer. None: there is nothing."""
        for index, fallback in enumerate(self.fallbacks):
            if _CONDITIONS[failing] in fallback.conditions and fallback.resource != self.resource:
                return Choice(route=self.route, resource=fallback.resource, fallbacks=self.fallbacks[index + 1 :])
        return None


def choose(
    snapshot: Snapshot,
    served_name: str,
    *,
    sticky_key: Callable[[route_pb2.RouteSticky], str | None],
    draw: Callable[[], float],
) -> Choice | NotFound:
    """What a request for `served_name` goes to: by lookup only, never by taking the name apart.

    Args:
        snapshot: that of the view that decides.
        served_name: what the caller asked for.
        sticky_key: what tells the caller from others; None: the request does not say.
        draw: `random.Random.random`.
    """
    entry = snapshot.served.get(served_name)
    if entry is None:
        return NotFound(served_name=served_name)
    if not isinstance(entry, snapshot_pb2.RouteEntry):
        return _with_candidate(snapshot, Choice(route="", resource=entry.name), entry.name, None, draw)
    spec = entry.revision.spec
    key = sticky_key(spec.sticky) if spec.HasField("sticky") else None
    shares = [(target.resource, target.weight) for target in spec.targets if target.weight]
    if len(shares) == 1:
        resource = shares[0][0]
    elif key is None:
        resource = _drawn(shares, draw())
    else:
        resource = _sticky(shares, f"{entry.uid}\0{key}")
    choice = Choice(route=entry.name, resource=resource, fallbacks=tuple(spec.fallbacks))
    return _with_candidate(snapshot, choice, resource, key, draw)


def _with_candidate(
    snapshot: Snapshot, choice: Choice, resource: str, key: str | None, draw: Callable[[], float]
) -> Choice:
    """`choice`, or the revision of its model that is being rolled out, with the model itself to
    fall back to."""
    model = snapshot.models.get(resource)
    candidate = candidate_name(model) if model is not None else None
    if model is None or candidate is None or candidate not in snapshot.deployable:
        return choice
    shares = [(resource, 100 - model.candidate_percent), (candidate, model.candidate_percent)]
    # Not by the resource alone: whoever is among the first of one rollout need not be among those
    # of the next.
    taken = _drawn(shares, draw()) if key is None else _sticky(shares, f"{candidate}\0{key}")
    if taken == resource:
        return choice
    stable = route_pb2.RouteFallback(resource=resource, conditions=_CONDITIONS.values())
    return Choice(route=choice.route, resource=candidate, fallbacks=(stable, *choice.fallbacks))


def _drawn(shares: Sequence[tuple[str, int]], point: float) -> str:
    """The resource at `point` (0 to 1) of all shares put in a row."""
    left = point * sum(weight for _, weight in shares)
    for resource, weight in shares:
        left -= weight
        if left < 0:
            return resource
    return shares[-1][0]


def _sticky(shares: Sequence[tuple[str, int]], key: str) -> str:
    """The resource of this key: each gets its share of keys, and a change of weights moves no more
    than it has to.

    Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables",
    SPAA 2005, the logarithmic method): each resource draws, by hash, a time at which it would come;
    heavier ones come sooner.
    """

    def comes_at(share: tuple[str, int]) -> float:
        resource, weight = share
        digest = hashlib.blake2b(f"{key}\0{resource}".encode(), digest_size=8).digest()
        # The half keeps it off both ends, where the logarithm is 0 or has no value.
        return -math.log(((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52) / weight

    return min(shares, key=comes_at)[0]


def resolve(view: View, resource: str, served_name: str) -> Route | None:
    """What answers for a resource in one view. None: it is not served here.

    Args:
        view: what decides.
        resource: resource name of a model or adapter, or of a pinned revision of one.
        served_name: what the caller asked for.
    """
    snapshot = view.snapshot
    model = snapshot.deployable.get(resource)
    adapter = None
    if model is None:
        adapter = snapshot.adapters.get(resource) or snapshot.pinned_adapters.get(resource)
        if adapter is None:
            return None
        model = snapshot.models[adapter.model]
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

    Without affinity: the less loaded of two drawn at random (Mitzenmacher, "The Power of Two
    Choices in Randomized Load Balancing", 2001). With affinity, the two are the adapter's homes:
    the first two in the rendezvous order of its name (Thaler and Ravishankar, 1998), which is the
    same in every ingress and moves only with its own endpoint.

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
