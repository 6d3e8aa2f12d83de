"""Ray Serve's deploy API, and nothing else of the data plane imports it. Every function blocks:
call it in a thread."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.context import _get_global_client
from ray.serve.schema import ApplicationStatus

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.engine.replica import EngineReplica, ReplicaSettings
from dataplane.relay.messages import ApplicationRecord

AGENT_APPLICATION = "broadsheet-agent"
INGRESS_APPLICATION = "broadsheet-ingress"
SYSTEM_APPLICATIONS = frozenset({AGENT_APPLICATION, INGRESS_APPLICATION})

_HEALTH_CHECK_PERIOD_S = 2.0
_HEALTH_CHECK_TIMEOUT_S = 30.0
_SHUTDOWN_MARGIN_S = 30.0
"""What an engine may take to end its processes, after its requests have ended."""


class Standing(enum.Enum):
    """What Ray Serve says of an application."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    FAILED = "FAILED"
    UNHEALTHY = "UNHEALTHY"
    DELETING = "DELETING"


_STANDINGS = {
    ApplicationStatus.NOT_STARTED: Standing.STARTING,
    ApplicationStatus.DEPLOYING: Standing.STARTING,
    ApplicationStatus.RUNNING: Standing.RUNNING,
    ApplicationStatus.DEPLOY_FAILED: Standing.FAILED,
    ApplicationStatus.UNHEALTHY: Standing.UNHEALTHY,
    ApplicationStatus.DELETING: Standing.DELETING,
}


@dataclass(frozen=True, slots=True)
class Observed:
    """One application as Ray Serve sees it."""

    standing: Standing
    message: str


def deploy_model(record: ApplicationRecord, settings: ReplicaSettings) -> None:
    """Make the application of a model, or give the one of that name the scaling of `record`; back
    as soon as Ray Serve has taken it on. The replicas that an application has are left alone.
    """
    entry = snapshot_pb2.ModelEntry.FromString(record.entry)
    deployment = serve.deployment(
        EngineReplica,
        name="engine",
        ray_actor_options=_actor_options(entry.revision.spec),
        health_check_period_s=_HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=_HEALTH_CHECK_TIMEOUT_S,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=settings.drain_s + _SHUTDOWN_MARGIN_S,
        **_scaling_options(entry.revision.spec.scaling),
    )
    # Without a version of ours each run gets a random one, and every replica is restarted. The name
    # is a digest of all that needs that.
    deployment = deployment.options(_internal=True, version=record.name)
    target = deployment.bind(record.name, record.entry, record.secret, settings)
    serve.run_many(
        [serve.RunTarget(target=target, name=record.name, route_prefix=None)], wait_for_applications_running=False
    )


def deploy_system(application: str, deployment: Any, *arguments: Any) -> None:
    """Run one of the data plane's own applications, and wait until it runs."""
    serve.run(deployment.bind(*arguments), name=application, route_prefix=None)


def delete(application: str) -> None:
    """Let an application go; back at once, its replicas drain first."""
    serve.delete(application, _blocking=False)


def observe() -> Mapping[str, Observed]:
    """All applications of the cluster, by name. Costs Ray Serve's controller time for each of them.

    Not by `serve.status()`: that builds the whole configuration of every application, here and in
    the controller, and what it does for that (it registers a module with cloudpickle, process-wide,
    for a moment) makes `deploy_model` fail in another thread.
    """
    found = {}
    for overview in _get_global_client().list_serve_statuses():
        application = overview.app_status
        # A deployment's own words are the more telling.
        messages = [deployment.message for deployment in overview.deployment_statuses if deployment.message]
        message = "\n".join(messages) or application.message
        found[overview.name] = Observed(_STANDINGS[application.status], message)
    return found


def free_resources() -> Mapping[str, float]:
    """What nobody has taken of the cluster's resources, by Ray's names, over all nodes."""
    free: Mapping[str, float] = ray.available_resources()
    return free


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
