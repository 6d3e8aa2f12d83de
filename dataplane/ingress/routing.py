"""Routes a request: from the name that the caller asked for to the replica that answers. Pure."""

from __future__ import annotations

import enum
import functools
import hashlib
import math
import operator
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from dataclasses import dataclass

from broadsheet.v1 import route_pb2, snapshot_pb2
from dataplane.openai.adapter_names import engine_adapter_name
from dataplane.snapshot.activation import Endpoint, ModelActivation, State, View
from dataplane.snapshot.snapshot import Snapshot, candidate_name, model_of

AFFINITY_SLACK_REQUESTS = 8
"""How many more requests in flight an adapter's first home may have than its second home, before
the second is chosen. Half of a replica's default target: waiting behind eight requests takes less
time than loading an adapter (seconds)."""

_weight = operator.itemgetter(1)
"""Of a resource and its weight."""
_IDLE = ModelActivation(state=State.IDLE, revision_number=0)


@dataclass(frozen=True, kw_only=True)  # without slots: what follows from the fields is kept
class Route:
    """The model, adapter and activation that answer a request in one view."""

    served_name: str
    """The name that the caller asked for."""
    model: snapshot_pb2.ModelEntry
    """The model, the pinned revision of one, or the adapter's base."""
    adapter: snapshot_pb2.AdapterEntry | None
    activation: ModelActivation
    """Activation of the model; IDLE if the view has none."""

    @functools.cached_property
    def model_revision_name(self) -> str:
        """Resource name of the model revision that answers."""
        return f"{model_of(self.model.name)}/revisions/{self.activation.revision_number}"

    @functools.cached_property
    def answer_header(self) -> tuple[bytes, bytes]:
        """The header that tells the caller what has answered."""
        return b"x-broadsheet-model", self.model_revision_name.encode()

    @functools.cached_property
    def engine_adapter(self) -> str | None:
        """Engine-side name of the adapter; None without one."""
        return engine_adapter_name(self.adapter) if self.adapter is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFound:
    """The view has no such served name."""

    served_name: str


class Failing(enum.Enum):
    """Why a resource cannot answer a request that something else may."""

    UNAVAILABLE = enum.auto()
    """It failed to start or to load, is not served on this data plane, or has no reachable
    replica."""
    QUEUE_FULL = enum.auto()
    """Its queue is full, or it had no room in time."""


_CONDITIONS = {
    Failing.UNAVAILABLE: route_pb2.RouteFallback.CONDITION_UNAVAILABLE,
    Failing.QUEUE_FULL: route_pb2.RouteFallback.CONDITION_QUEUE_FULL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a request goes to, and its fallbacks."""

    route: str
    """Resource name of the route; empty if the caller asked for a model or an adapter."""
    resource: str
    """Resource name of the model, adapter or revision that the request goes to."""
    fallbacks: tuple[route_pb2.RouteFallback, ...] = ()
    """The remaining fallbacks, in order."""

    def after(self, failing: Failing) -> Choice | None:
        """Return what to try next when `resource` cannot answer; None if nothing is left."""
        for index, fallback in enumerate(self.fallbacks):
            if _CONDITIONS[failing] in fallback.conditions and fallback.resource != self.resource:
                return Choice(route=self.route, resource=fallback.resource, fallbacks=self.fallbacks[index + 1 :])
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """What a route says, read once from its entry."""

    route: str
    """Resource name of the route."""
    uid: str
    sticky: route_pb2.RouteSticky | None
    shares: tuple[tuple[str, int], ...]
    """Targets with their weights, without those that have none."""
    fallbacks: tuple[route_pb2.RouteFallback, ...]

    @classmethod
    def of(cls, entry: snapshot_pb2.RouteEntry) -> Split:
        """Read an entry."""
        spec = entry.revision.spec
        return cls(
            route=entry.name,
            uid=entry.uid,
            sticky=spec.sticky if spec.HasField("sticky") else None,
            shares=tuple((target.resource, target.weight) for target in spec.targets if target.weight),
            fallbacks=tuple(spec.fallbacks),
        )


def fixed_choice(snapshot: Snapshot, served_name: str) -> Choice | None:
    """What every request for `served_name` goes to.

    None: it depends on the request or on chance, or the view has no such name.

    Args:
        snapshot: The snapshot of the view that decides.
        served_name: The name that the caller asked for.
    """
    entry = snapshot.served.get(served_name)
    if entry is None or isinstance(entry, snapshot_pb2.RouteEntry):
        return None
    if isinstance(entry, snapshot_pb2.ModelEntry) and candidate_name(entry) is not None:
        return None
    return Choice(route="", resource=entry.name)


def choose(
    snapshot: Snapshot,
    served_name: str,
    *,
    sticky_key: Callable[[route_pb2.RouteSticky], str | None],
    draw: Callable[[], float],
) -> Choice | NotFound:
    """Choose what a request for `served_name` goes to. The name is looked up, never parsed.

    Args:
        snapshot: The snapshot of the view that decides.
        served_name: The name that the caller asked for.
        sticky_key: Returns what identifies the caller; None if the request does not say.
        draw: `random.Random.random`.
    """
    entry = snapshot.served.get(served_name)
    if entry is None:
        return NotFound(served_name=served_name)
    if not isinstance(entry, snapshot_pb2.RouteEntry):
        return _with_candidate(snapshot, Choice(route="", resource=entry.name), entry.name, None, draw)
    return choose_target(snapshot, Split.of(entry), sticky_key=sticky_key, draw=draw)


def choose_target(
    snapshot: Snapshot,
    split: Split,
    *,
    sticky_key: Callable[[route_pb2.RouteSticky], str | None],
    draw: Callable[[], float],
) -> Choice:
    """Choose one of a route's targets. The arguments are those of `choose`."""
    key = sticky_key(split.sticky) if split.sticky is not None else None
    if len(split.shares) == 1:
        resource = split.shares[0][0]
    elif key is None:
        resource = _drawn(split.shares, draw())
    else:
        resource = _sticky(split.shares, f"{split.uid}\0{key}")
    choice = Choice(route=split.route, resource=resource, fallbacks=split.fallbacks)
    return _with_candidate(snapshot, choice, resource, key, draw)


def _with_candidate(
    snapshot: Snapshot, choice: Choice, resource: str, key: str | None, draw: Callable[[], float]
) -> Choice:
    """Replace the chosen model by its candidate, for the candidate's share of requests.

    The model itself is then the first fallback.
    """
    model = snapshot.models.get(resource)
    candidate = candidate_name(model) if model is not None else None
    if model is None or candidate is None or candidate not in snapshot.deployable:
        return choice
    shares = [(resource, 100 - model.candidate_percent), (candidate, model.candidate_percent)]
    # The candidate is part of the hash, so that each rollout begins with other callers.
    taken = _drawn(shares, draw()) if key is None else _sticky(shares, f"{candidate}\0{key}")
    if taken == resource:
        return choice
    stable = route_pb2.RouteFallback(resource=resource, conditions=_CONDITIONS.values())
    return Choice(route=choice.route, resource=candidate, fallbacks=(stable, *choice.fallbacks))


def _drawn(shares: Sequence[tuple[str, int]], point: float) -> str:
    """The resource at `point` (0 to 1) of the cumulated shares."""
    left = point * sum(map(_weight, shares))
    for resource, weight in shares:
        left -= weight
        if left < 0:
            return resource
    return shares[-1][0]


def _sticky(shares: Sequence[tuple[str, int]], key: str) -> str:
    """The resource of a sticky key.

    Each resource gets its share of the keys, and a change of weights moves as few keys as possible:
    weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables",
    SPAA 2005, the logarithmic method). The hash gives each resource an arrival time, sooner for a
    larger weight, and the first to arrive is chosen.
    """

    def arrival(share: tuple[str, int]) -> float:
        resource, weight = share
        digest = hashlib.blake2b(f"{key}\0{resource}".encode(), digest_size=8).digest()
        # Adding a half avoids 0 and 1, where the logarithm is undefined or 0.
        return -math.log(((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52) / weight

    return min(shares, key=arrival)[0]


def resolve(view: View, resource: str, served_name: str) -> Route | None:
    """Return what answers for a resource in one view; None if it is not served here.

    Args:
        view: The view that decides.
        resource: Resource name of a model or adapter, or of a pinned revision of either.
        served_name: The name that the caller asked for.
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
    down: Collection[str],
    randrange: Callable[[int], int],
) -> Endpoint | None:
    """Choose the endpoint of one request; None if no endpoint has room.

    Without affinity it is the less loaded of two endpoints drawn at random (Mitzenmacher, "The
    Power of Two Choices in Randomized Load Balancing", 2001). With affinity the two are the homes
    of the adapter: the first two in the rendezvous order of its name (Thaler and Ravishankar,
    1998). Every ingress replica computes the same homes, and a home changes only when its endpoint
    goes.

    Args:
        endpoints: The endpoints of the current activation.
        in_flight: Requests of this ingress replica in flight, by replica id.
        limit: Requests that one endpoint may have in flight.
        affinity: Engine-side name of the adapter; None without one.
        avoid: Replica ids that this request has tried. Taken only when no other has room.
        down: Replica ids that refused connections lately. Taken only when all have.
        randrange: `random.Random.randrange`.
    """
    if len(endpoints) == 1:
        [only] = endpoints
        return only if in_flight.get(only.replica_id, 0) < limit else None
    reachable = [endpoint for endpoint in endpoints if endpoint.replica_id not in down] if down else endpoints
    first, second = _two(reachable or endpoints, affinity, randrange)
    slack = AFFINITY_SLACK_REQUESTS if affinity is not None else 0
    if in_flight.get(first.replica_id, 0) > in_flight.get(second.replica_id, 0) + slack:
        first, second = second, first
    for endpoint in (first, second):
        if endpoint.replica_id not in avoid and in_flight.get(endpoint.replica_id, 0) < limit:
            return endpoint
    return _least_loaded(reachable or endpoints, in_flight, limit=limit, avoid=avoid)


def _least_loaded(
    endpoints: Sequence[Endpoint], in_flight: Mapping[str, int], *, limit: int, avoid: Container[str]
) -> Endpoint | None:
    """The least loaded of those that have room; one to avoid only if no other has."""

    def load(endpoint: Endpoint) -> int:
        return in_flight.get(endpoint.replica_id, 0)

    with_room = [endpoint for endpoint in endpoints if load(endpoint) < limit]
    untried = [endpoint for endpoint in with_room if endpoint.replica_id not in avoid]
    return min(untried or with_room, key=load, default=None)


def _two(
    endpoints: Sequence[Endpoint], affinity: str | None, randrange: Callable[[int], int]
) -> tuple[Endpoint, Endpoint]:
    """Two different endpoints, or the same one twice if there is only one."""
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
