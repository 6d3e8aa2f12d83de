"""Plans what to do with Ray Serve applications, and the activation of each model. Pure.

Each plan is made from the situation alone: what the snapshot wants, what runs, what was requested.
Nothing is remembered between plans, so a plan does not depend on how long the agent has run.

The rules for each model, and for each pinned revision as if it were a model of its own:

- Its application is named after the digest of everything that needs a restart
  (`desired.application_name`).
- The application is wanted while `min_replicas` is 1 or more, or requests have come within
  `downscale_to_zero_delay`, or until `warm_until` (`demand`). `warm_until` is a time of the control
  plane's clock and is compared with the clock of this machine.
- Requests move to the application when it has an endpoint. Until then the previous application
  answers (make before break). With `replace_cold` they move at once, and are held until there is an
  endpoint.
- Models and pinned revisions that want the same application share it.
- An application that answers nothing is deleted when every ingress replica uses an activation
  without it and no request is in it any more (`changes`).
- An application that failed to start is deleted at once, and deployed again after a backoff while
  it is wanted (`giving_up`).
- Of the starts that requests have caused, only so many are under way at once; the others wait for
  their turn (`starts`).
- A scaling change updates the running application in place. If a pinned revision shares the
  application, the scaling of the model counts.
- With `scaling.idle: SLEEP`, an application that has run and is no longer wanted sleeps instead of
  being deleted. It gets no requests then. It is woken when it is wanted again, and evicted when an
  application that starts needs its resources (`eviction`).
"""

from __future__ import annotations

from broadsheet.v1 import snapshot_pb2
from dataplane.agent.desired import application_name
from dataplane.agent.reconciler.actions import Deploy, Plan
from dataplane.agent.reconciler.activation import plan_model
from dataplane.agent.reconciler.changes import deletions, rescales, sleep_changes
from dataplane.agent.reconciler.demand import models_to_plan
from dataplane.agent.reconciler.eviction import evicted_sleepers
from dataplane.agent.reconciler.starts import StartQueue, queued
from dataplane.agent.situation import Application, Situation
from dataplane.snapshot.activation import ModelActivation
from dataplane.snapshot.snapshot import model_of


def plan(situation: Situation) -> Plan:
    """What to do now, and the activation of each model that has or had an application."""
    by_model: dict[str, dict[str, Application]] = {}
    for application in situation.applications.values():
        by_model.setdefault(application.model, {})[application.name] = application

    deploys: dict[str, Deploy] = {}
    keep: set[str] = set()
    sleepers: set[str] = set()
    entries: dict[str, snapshot_pb2.ModelEntry] = {}
    models: dict[str, ModelActivation] = {}
    starts = StartQueue(situation)
    for name in models_to_plan(situation, by_model):
        entry = situation.snapshot.deployable[name]
        model = model_of(name)
        planned = plan_model(situation, entry, by_model.get(model, {}))
        keep.update(planned.keep)
        application_of_entry = application_name(entry)
        target = situation.applications.get(application_of_entry)
        if not starts.takes(entry, planned, target) and planned.deploy is not None:
            deploys.setdefault(planned.deploy.application, planned.deploy)
        if planned.sleeper is not None:
            sleepers.add(planned.sleeper)
        if planned.activation is not None:
            models[name] = planned.activation
            if name == model or application_of_entry not in entries:
                entries[application_of_entry] = entry

    for name in starts.begin(deploys):
        models[name] = queued(models[name], situation.start_limits)
    sleepers -= keep
    staying = sleepers - evicted_sleepers(situation, keep, deploys.values(), sleepers)
    return Plan(
        actions=(
            *deletions(situation, keep | staying),
            *deploys.values(),
            *rescales(situation, keep, entries),
            *sleep_changes(situation, keep, staying),
        ),
        models=models,
    )
