"""Looks at one data plane: its record, Ray Serve, and what its replicas report. Blocks."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

from dataplane.agent.deployments import (
    AGENT_APPLICATION,
    INGRESS_APPLICATION,
    SYSTEM_APPLICATIONS,
    application_states,
    live_ingress_replicas,
)
from dataplane.cluster_names import on_cluster
from dataplane.launch import records
from dataplane.launch.errors import LaunchRefused
from dataplane.launch.observed import NO_STATE, Observed, applications, ingress_replicas
from dataplane.relay.actor import find_relay
from dataplane.relay.relay import Changes, Relay
from dataplane.relay.topics import Topic, engine_of

_RELAY_TIMEOUT_S = 10.0
"""How long the relay may take to answer. It is in the same cluster."""


def observe(data_plane_id: str) -> Observed:
    """What the data plane does now.

    Raises:
        LaunchRefused: It is not on this cluster, or its relay does not answer.
    """
    record = records.read(data_plane_id)
    if record is None:
        raise LaunchRefused(not_here(data_plane_id))
    states = application_states(data_plane_id)
    reports = asyncio.run(_reports(data_plane_id))
    ready = Counter(engine_of(name)[0] for name in reports.values(Topic.ENGINES)) if reports else {}
    models = {name: state for name, state in states.items() if name not in SYSTEM_APPLICATIONS}
    seen = applications(models, reports.values(Topic.APPLICATIONS) if reports else {}, ready)
    return Observed(
        data_plane_id=data_plane_id,
        release=record.release,
        http=record.settings.get("http", ""),
        agent=states.get(AGENT_APPLICATION, NO_STATE),
        ingress=states.get(INGRESS_APPLICATION, NO_STATE),
        ingress_replicas=ingress_replicas(
            live_ingress_replicas(data_plane_id), reports.values(Topic.INGRESSES) if reports else {}
        ),
        applications=tuple(replace(one, name=on_cluster(one.name, data_plane_id)) for one in seen),
    )


def not_here(data_plane_id: str) -> str:
    """The message for a data plane that is not on the cluster."""
    known = ", ".join(sorted(records.read_all())) or "none"
    return (
        f"data_plane_id: got {data_plane_id}; data planes that were launched on this Ray cluster: {known}. One that "
        "started its own Ray ends with its process"
    )


async def _reports(data_plane_id: str) -> Changes | None:
    """What agent and replicas have put into the relay. None: there is no relay."""
    actor = await asyncio.to_thread(find_relay, data_plane_id)
    if actor is None:
        return None
    relay = Relay(None, open_actor=lambda: actor)
    try:
        async with asyncio.timeout(_RELAY_TIMEOUT_S):
            return await relay.read([Topic.APPLICATIONS, Topic.ENGINES, Topic.INGRESSES])
    except TimeoutError as error:
        raise LaunchRefused(f"the relay of {data_plane_id} has not answered for {_RELAY_TIMEOUT_S:g} s") from error
