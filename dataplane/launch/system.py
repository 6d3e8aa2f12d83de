"""The agent, the ingress and the relay, on a Ray that was joined. Blocks."""

from __future__ import annotations

from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from dataplane.agent import deployments
from dataplane.agent.agent import Agent
from dataplane.ingress.replica import IngressReplica
from dataplane.relay.actor import open_relay
from dataplane.settings import Settings

_UPSCALE_DELAY_S = 10.0
_DOWNSCALE_DELAY_S = 300.0
"""A replica that stops closes its idle connections, so a short lull stops none."""


def deploy(settings: Settings, version: str) -> None:
    """Deploy them. Returns when all of them run.

    Args:
        settings: Of the data plane.
        version: Replicas that run with this version are kept; others are replaced, one by one.
    """
    # Ingress replicas listen on ports of their own (dataplane/ingress/replica.py), so Serve's proxy
    # is not needed.
    serve.start(http_options={"location": "NoServer"})
    open_relay(settings.data_plane_id)
    agent = serve.deployment(
        Agent,
        name="agent",
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=2.0,
        graceful_shutdown_timeout_s=20.0,
    )
    ingress = serve.deployment(
        IngressReplica,
        name=deployments.INGRESS_DEPLOYMENT,
        **_scaling_options(settings),
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=2.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=settings.drain_s + 10.0,
    )
    deployed = {deployments.AGENT_APPLICATION: agent, deployments.INGRESS_APPLICATION: ingress}
    targets = {
        name: deployment.options(_internal=True, version=version).bind(settings)
        for name, deployment in deployed.items()
    }
    deployments.deploy_system(targets, settings.data_plane_id)


def _scaling_options(settings: Settings) -> dict[str, Any]:
    if settings.ingress_range is None:
        return {"num_replicas": settings.ingress_replicas}
    least, most = settings.ingress_range
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=least,
            max_replicas=most,
            initial_replicas=least,
            upscale_delay_s=_UPSCALE_DELAY_S,
            downscale_delay_s=_DOWNSCALE_DELAY_S,
            policy=AutoscalingPolicy(policy_function="dataplane.ingress.scaling.policy:replicas_for_load"),
        )
    }
