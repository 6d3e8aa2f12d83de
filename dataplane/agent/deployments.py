"""Ray Serve's deploy API. No other module of the agent imports it.

Everything in it blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.agent.desired import APPLICATION_NAME_PREFIX
from dataplane.agent.resources import Resources
from dataplane.agent.serve_api import ServeApi, ServeState, ServeStatus
from dataplane.engine.out_of_memory import start_failure_reason
from dataplane.engine.replica import EngineReplica, ReplicaSettings
from dataplane.relay.messages import ApplicationRecord

AGENT_APPLICATION = "broadsheet-agent"
INGRESS_APPLICATION = "broadsheet-ingress"
INGRESS_DEPLOYMENT = "ingress"
SYSTEM_APPLICATIONS = frozenset({AGENT_APPLICATION, INGRESS_APPLICATION})

_INGRESS_ACTOR = f"SERVE_REPLICA::{INGRESS_APPLICATION}#{INGRESS_DEPLOYMENT}#"
"""How Ray Serve names the actor of an ingress replica, before the replica's id."""

_HEALTH_CHECK_PERIOD_S = 2.0
_HEALTH_CHECK_TIMEOUT_S = 30.0
_SHUTDOWN_MARGIN_S = 30.0
"""How long an engine may take to end its processes after its requests have ended."""


_STATES = {
    ApplicationStatus.NOT_STARTED: ServeState.STARTING,
    ApplicationStatus.DEPLOYING: ServeState.STARTING,
    ApplicationStatus.RUNNING: ServeState.RUNNING,
    ApplicationStatus.DEPLOY_FAILED: ServeState.FAILED,
    ApplicationStatus.UNHEALTHY: ServeState.UNHEALTHY,
    ApplicationStatus.DELETING: ServeState.DELETING,
}


class RayServe(ServeApi):
    """Ray Serve of the cluster that this process has joined."""

    def __init__(self, settings: ReplicaSettings) -> None:
        """
        Args:
            settings: For the replicas of all applications.
        """
        self._settings = settings

    def deploy(self, record: ApplicationRecord) -> None:
        entry = snapshot_pb2.ModelEntry.FromString(record.entry)
        deployment = serve.deployment(
            EngineReplica,
            name="engine",
            ray_actor_options=_actor_options(entry.revision.spec),
            health_check_period_s=_HEALTH_CHECK_PERIOD_S,
            health_check_timeout_s=_HEALTH_CHECK_TIMEOUT_S,
            graceful_shutdown_wait_loop_s=0.1,
            graceful_shutdown_timeout_s=self._settings.drain_s + _SHUTDOWN_MARGIN_S,
            **_scaling_options(entry.revision.spec.scaling),
        )
        # By default each run gets a random version, which restarts every replica. The name holds a
        # digest of everything that needs a restart, so it serves as the version.
        deployment = deployment.options(_internal=True, version=record.name)
        target = deployment.bind(record.name, record.entry, record.secret, self._settings)
        serve.run_many(
            [serve.RunTarget(target=target, name=record.name, route_prefix=None)], wait_for_applications_running=False
        )

    def delete(self, application: str) -> None:
        serve.delete(application, _blocking=False)

    def observe(self) -> Mapping[str, ServeStatus]:
        # `serve.status()` is not used. It builds the whole configuration of every application, here
        # and in the controller. To do so it registers a module with cloudpickle for a moment, for
        # the whole process, which makes `deploy` fail in another thread.
        found = {}
        for overview in _get_global_client().list_serve_statuses():
            if not overview.name.startswith(APPLICATION_NAME_PREFIX) or overview.name in SYSTEM_APPLICATIONS:
                continue
            application = overview.app_status
            # The messages of the deployments say more than that of the application.
            messages = [deployment.message for deployment in overview.deployment_statuses if deployment.message]
            message = "\n".join(messages) or application.message
            state = _STATES[application.status]
            reason = start_failure_reason(message) if state is ServeState.FAILED else ""
            found[overview.name] = ServeStatus(state=state, message=message, reason=reason)
        return found

    def ingress_replicas(self) -> frozenset[str]:
        # Ray drops the name of an actor when its process has ended.
        names = ray.util.list_named_actors(all_namespaces=True)
        found = (actor["name"] for actor in names if actor["namespace"] == SERVE_NAMESPACE)
        return frozenset(name.removeprefix(_INGRESS_ACTOR) for name in found if name.startswith(_INGRESS_ACTOR))

    def stop_ingress_replica(self, replica_id: str) -> None:
        with contextlib.suppress(ValueError):  # it has ended by itself
            ray.kill(ray.get_actor(_INGRESS_ACTOR + replica_id, namespace=SERVE_NAMESPACE))

    def free_resources(self) -> Resources:
        free: Resources = ray.available_resources()
        return free


def deploy_system(application: str, deployment: Any, *arguments: Any) -> None:
    """Deploy the agent or the ingress. Returns when it runs."""
    serve.run(deployment.bind(*arguments), name=application, route_prefix=None)


def _actor_options(spec: model_pb2.ModelSpec) -> dict[str, Any]:
    resources = spec.resources
    options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.accelerators}
    if resources.memory_bytes:
        options["memory"] = resources.memory_bytes
    if resources.accelerator_type:
        options["accelerator_type"] = resources.accelerator_type
    return options


def _scaling_options(scaling: model_pb2.Scaling) -> dict[str, Any]:
    least = max(1, scaling.min_replicas)
    if scaling.max_replicas <= least:
        return {"num_replicas": least}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=least,
            max_replicas=scaling.max_replicas,
            initial_replicas=max(least, scaling.initial_replicas),
            target_ongoing_requests=scaling.target_ongoing_requests,
            upscale_delay_s=scaling.upscale_delay.ToTimedelta().total_seconds(),
            downscale_delay_s=scaling.downscale_delay.ToTimedelta().total_seconds(),
            policy=AutoscalingPolicy(policy_function="dataplane.engine.autoscaling:replicas_for_load"),
        )
    }
