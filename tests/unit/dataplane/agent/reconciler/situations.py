"""Entries, applications and situations for the tests of the reconciler."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

from broadsheet.v1 import model_pb2, snapshot_pb2
from dataplane.agent.desired import application_name, replica_bounds
from dataplane.agent.giving_up import Failure
from dataplane.agent.resources import resources_of
from dataplane.agent.situation import Application, Phase, Situation
from dataplane.snapshot.activation import Endpoint
from dataplane.snapshot.snapshot import Message, model_of
from tests import views

NOW = 1_000_000.0
IDLE_S = 300


def entry(
    model_id: str = "m", *, number: int = 1, min_replicas: int = 0, args: Mapping[str, object] | None = None
) -> snapshot_pb2.ModelEntry:
    made = views.model(model_id, number=number, args=args)
    made.revision.spec.scaling.min_replicas = min_replicas
    made.revision.spec.scaling.downscale_to_zero_delay.seconds = IDLE_S
    made.revision.spec.admission.cold_start_timeout.seconds = 600
    return made


def application(of: snapshot_pb2.ModelEntry, phase: Phase = Phase.RUNNING, **changes: object) -> Application:
    name = application_name(of)
    running = phase is Phase.RUNNING
    made = Application(
        name=name,
        model=model_of(of.name),
        revision_number=of.revision.number,
        phase=phase,
        created_at=NOW - 1000,
        endpoints=(Endpoint(replica_id=f"{name}-r", url="http://127.0.0.1:1"),) if running else (),
        replica_bounds=replica_bounds(of.revision.spec.scaling),
        ready_at=NOW - 900 if running else None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the tests' own keywords


def situation(*entries: Message, applications: tuple[Application, ...] = (), **changes: object) -> Situation:
    made = Situation(
        now=NOW,
        time_of_day=NOW,
        snapshot=views.snapshot(*entries),
        applications={application.name: application for application in applications},
        serving={},
        in_flight={},
        last_activity={},
        failures={},
        ingress_sequence=9,
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # the tests' own keywords


def failed_situation(*, retry_in_s: float, **changes: object) -> Situation:
    failure = Failure(count=1, reason="SOURCE_NOT_FOUND", message="nothing there", retry_at=NOW + retry_in_s)
    made = situation(entry(), failures={application_name(entry()): failure})
    return replace(made, **changes)  # type: ignore[arg-type]  # the tests' own keywords


OLD, NEW = entry(number=1), entry(number=2, args={"start_up_s": 1})
PINNED = "models/m/revisions/1"


def warmed(until: float, of: snapshot_pb2.ModelEntry | None = None) -> snapshot_pb2.ModelEntry:
    made = copy.deepcopy(of if of is not None else entry())
    made.warm_until.FromNanoseconds(round(until * 1e9))
    return made


def sleeper(model_id: str = "m", *, gpus: int = 1) -> snapshot_pb2.ModelEntry:
    made = entry(model_id)
    made.revision.spec.scaling.idle = model_pb2.Scaling.IDLE_SLEEP
    made.revision.spec.resources.accelerators = gpus
    return made


def asleep(of: snapshot_pb2.ModelEntry, phase: Phase = Phase.RUNNING) -> Application:
    return application(of, phase, endpoints=(), asleep=True, all_asleep=True, resources=resources_of(of.revision.spec))
