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
from dataplane.agent.resources import Resources
from dataplane.agent.serve_api import ServeApi, ServeState, ServeStatus
from dataplane.cluster_names import in_data_plane, on_cluster
from dataplane.engine.out_of_memory import start_failure_reason
from dataplane.engine.replica import EngineReplica, ReplicaSettings
from dataplane.relay.messages import ApplicationRecord

AGENT_APPLICATION = "broadsheet-agent"
INGRESS_APPLICATION = "broadsheet-ingress"
INGRESS_DEPLOYMENT = "ingress"
SYSTEM_APPLICATIONS = frozenset({AGENT_APPLICATION, INGRESS_APPLICATION})

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
    """One data plane's applications in Ray Serve of the cluster that this process has joined.

    On the cluster, every name ends with the data plane's id. It does so nowhere else.
    """

    def __init__(self, settings: ReplicaSettings) -> None:
        """
        Args:
            settings: For the replicas of all applications.
        """
        self._settings = settings
        self._id = settings.data_plane_id

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
            [serve.RunTarget(target=target, name=on_cluster(record.name, self._id), route_prefix=None)],
            wait_for_applications_running=False,
        )

    def delete(self, application: str) -> None:
        delete_application(application, self._id)

    def observe(self) -> Mapping[str, ServeStatus]:
        # `serve.status()` is not used. It builds the whole configuration of every application, here
        # and in the controller. To do so it registers a module with cloudpickle for a moment, for
        # the whole process, which makes `deploy` fail in another thread.
        found = {}
        for overview in _get_global_client().list_serve_statuses():
            name = in_data_plane(overview.name, self._id)
            if name is None or name in SYSTEM_APPLICATIONS:
                continue
            application = overview.app_status
            # The messages of the deployments say more than that of the application.
            messages = [deployment.message for deployment in overview.deployment_statuses if deployment.message]
            message = "\n".join(messages) or application.message
            state = _STATES[application.status]
            reason = start_failure_reason(message) if state is ServeState.FAILED else ""
            found[name] = ServeStatus(state=state, message=message, reason=reason)
        return found

    def ingress_replicas(self) -> frozenset[str]:
        # Ray drops the name of an actor when its process has ended.
        return live_ingress_replicas(self._id)

    def stop_ingress_replica(self, replica_id: str) -> None:
        with contextlib.suppress(ValueError):  # it has ended by itself
            ray.kill(ray.get_actor(_ingress_actor(self._id) + replica_id, namespace=SERVE_NAMESPACE))

    def free_resources(self) -> Resources:
        free: Resources = ray.available_resources()
        return free


def live_ingress_replicas(data_plane_id: str) -> frozenset[str]:
    """Ids of the ingress replicas whose processes live or start."""
    names = ray.util.list_named_actors(all_namespaces=True)
    found = (actor["name"] for actor in names if actor["namespace"] == SERVE_NAMESPACE)
    beginning = _ingress_actor(data_plane_id)
    return frozenset(name.removeprefix(beginning) for name in found if name.startswith(beginning))


def application_states(data_plane_id: str) -> dict[str, str]:
    """Ray Serve's word for each application of a data plane, by name within it."""
    client = _get_global_client(raise_if_no_controller_running=False)
    found = {}
    for overview in client.list_serve_statuses() if client is not None else ():
        name = in_data_plane(overview.name, data_plane_id)
        if name is not None:
            found[name] = overview.app_status.status.value
    return found


def any_system_application_failed(data_plane_id: str) -> bool:
    """Whether Ray Serve has given up to deploy the agent or the ingress."""
    states = application_states(data_plane_id)
    return any(states.get(name) == ApplicationStatus.DEPLOY_FAILED.value for name in SYSTEM_APPLICATIONS)


def delete_application(name: str, data_plane_id: str) -> None:
    """Request the deletion of an application. Returns at once; its replicas drain first."""
    serve.delete(on_cluster(name, data_plane_id), _blocking=False)


def _ingress_actor(data_plane_id: str) -> str:
    """How Ray Serve names the actor of an ingress replica, before the replica's id."""
    return f"SERVE_REPLICA::{on_cluster(INGRESS_APPLICATION, data_plane_id)}#{INGRESS_DEPLOYMENT}#"


def deploy_system(targets: Mapping[str, Any], data_plane_id: str) -> None:
    """Deploy the agent and the ingress. Returns when both run.

    Args:
        targets: Bound deployments, by application.
        data_plane_id: Whose they are.
    """
    serve.run_many(
        [
            serve.RunTarget(target=target, name=on_cluster(name, data_plane_id), route_prefix=None)
            for name, target in targets.items()
        ]
    )


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
