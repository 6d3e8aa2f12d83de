"""The relay's Ray actor: a shell around `RelayService`.

It is not part of the agent, so that the agent may crash: an ingress replica that starts meanwhile
still finds the last snapshot here, and a new agent finds the applications of the old one. An actor
that crashed comes back empty with another epoch; every process then puts its keys again.
"""

from __future__ import annotations

import pickle
import time
from typing import Any

import ray
import ray.actor

from dataplane.cluster_names import on_cluster
from dataplane.relay.service import RelayService

_RELAY_ACTOR_NAME = "broadsheet-relay"
RAY_NAMESPACE = "broadsheet"

_CALLS_MAX = 10_000
"""Calls in progress, nearly all of them long polls. With Ray's default of 1,000, puts would wait
for polls to end in a cluster of 1,000 replicas."""


class RelayActor:
    """One method for all calls: bytes in, bytes out.

    Ray passes bytes on as they are. For other values it takes a pickler in Python, which would cost
    more than all the rest of a call.
    """

    def __init__(self, started_at_ns: int | None = None) -> None:
        """
        Args:
            started_at_ns: Nanoseconds since the epoch. None: now.
        """
        self._service = RelayService(started_at_ns=time.time_ns() if started_at_ns is None else started_at_ns)

    async def call(self, request: bytes) -> bytes:
        """Call a method of the service, and pickle what it returns.

        Args:
            request: By `pack_call`.

        Raises:
            RelayError: the service has refused the call.
        """
        method, arguments = pickle.loads(request)  # noqa: S301  # from this cluster, where Ray runs any code
        return dumped(await getattr(self._service, method)(*arguments))


def pack_call(method: str, arguments: tuple[Any, ...]) -> bytes:
    """A call of a method of `RelayService`."""
    return dumped((method, arguments))


def dumped(value: object) -> bytes:
    """Pickle a value for the way through Ray."""
    return pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)


def open_relay(data_plane_id: str) -> ray.actor.ActorHandle[Any]:
    """The relay of a data plane, made if there is none. Blocks."""
    actor_class = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0)(RelayActor)
    handle: ray.actor.ActorHandle[Any] = actor_class.options(
        name=on_cluster(_RELAY_ACTOR_NAME, data_plane_id),
        namespace=RAY_NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        max_concurrency=_CALLS_MAX,
        enable_task_events=False,  # Ray's dashboard would be sent an event for each heartbeat
    ).remote()
    return handle


def find_relay(data_plane_id: str) -> ray.actor.ActorHandle[Any] | None:
    """The relay of a data plane. None: there is none. Blocks."""
    try:
        handle: ray.actor.ActorHandle[Any] = ray.get_actor(on_cluster(_RELAY_ACTOR_NAME, data_plane_id), RAY_NAMESPACE)
    except ValueError:
        return None
    return handle
