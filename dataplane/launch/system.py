"""The agent, the ingress and the relay, on a Ray that was joined. Blocks."""

from __future__ import annotations

from ray import serve

from dataplane.agent import deployments
from dataplane.agent.agent import Agent
from dataplane.ingress.replica import IngressReplica
from dataplane.relay.actor import open_relay
from dataplane.settings import Settings


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
        num_replicas=settings.ingress_replicas,
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
