"""The methods of models, as the model of the registry has them. Pure."""

from __future__ import annotations

from dataclasses import replace

from tests.registry_model.calls import (
    Answer,
    ControlRollout,
    DeleteModel,
    Refused,
    RegisterModel,
    RollbackModel,
    UndeleteModel,
    UpdateModel,
    WarmModel,
    not_found,
)
from tests.registry_model.routes import release_from_routes
from tests.registry_model.state import Registry
from tests.registry_model.values import Content, Model


def register_model(registry: Registry, call: RegisterModel) -> Answer:
    current = registry.models.get(call.name)
    registry.check_registrable(current, call)
    return _write(
        registry,
        current,
        Model(
            name=call.name,
            served_name=call.served_name or call.name.removeprefix("models/"),
            team=call.team,
            canary=call.canary,
            number=current.number if current else 0,
            content=call.content,
            stable=current.stable if current else None,
            rollout=current.rollout if current else "",
            is_warm=current.is_warm if current else False,
            warmed_at=current.warmed_at if current else 0,
        ),
    )


def update_model(registry: Registry, call: UpdateModel) -> Answer:
    current = registry.live_model(call.name)
    registry.check_etag(current, call.etag)
    wanted = replace(
        current,
        content=Content(
            call.weights if call.weights is not None else current.content.weights,
            call.text if call.text is not None else current.content.text,
        ),
        team=call.team if call.team is not None else current.team,
    )
    if call.served_name is not None:
        wanted = replace(wanted, served_name=call.served_name or call.name.removeprefix("models/"))
    return _write(registry, current, wanted)


def roll_back_model(registry: Registry, call: RollbackModel) -> Answer:
    current = registry.live_model(call.name)
    registry.check_etag(current, call.etag)
    if call.number > current.number:
        raise not_found("REVISION")
    return _write(
        registry, current, replace(current, content=registry.contents[call.name][call.number - 1]), at_once=True
    )


def delete_model(registry: Registry, call: DeleteModel) -> Answer:
    current = registry.live_model(call.name)
    registry.check_etag(current, call.etag)
    own = [adapter for adapter in registry.live(registry.adapters) if adapter.base == call.name]
    if own and not call.force:
        raise Refused("FailedPrecondition", "MODEL_HAS_ADAPTERS")
    release_from_routes(registry, call.name, force=call.force)
    for adapter in own:
        registry.adapters[adapter.name] = registry.deleted(adapter)
    registry.models[call.name] = registry.deleted(current)
    return Answer(catalog_revision=registry.next_revision, resource=registry.models[call.name])


def undelete_model(registry: Registry, call: UndeleteModel) -> Answer:
    current = registry.models.get(call.name)
    if current is None:
        raise not_found("MODEL")
    registry.check_etag(current, call.etag)
    registry.models[call.name] = registry.undeleted(current)
    # The adapters that the same call deleted are undeleted.
    together = [
        adapter
        for adapter in registry.adapters.values()
        if adapter.base == call.name and adapter.is_deleted and adapter.catalog_revision == current.catalog_revision
    ]
    for adapter in together:
        registry.adapters[adapter.name] = registry.undeleted(adapter)
    return Answer(catalog_revision=registry.next_revision, resource=registry.models[call.name], count=len(together))


def control_rollout(registry: Registry, call: ControlRollout) -> Answer:
    current = registry.live_model(call.name)
    allowed = {"PAUSE": ("RUNNING",), "RESUME": ("PAUSED",), "ABORT": ("RUNNING", "PAUSED")}
    if current.stable is None or current.rollout not in allowed[call.action]:
        raise Refused("FailedPrecondition", "ROLLOUT_NOT_IN_STATE")
    changed = replace(current, catalog_revision=registry.next_revision)
    if call.action == "ABORT":
        stable = registry.contents[call.name][current.stable - 1]
        registry.add_content(call.name, stable)
        changed = replace(changed, number=current.number + 1, content=stable, stable=None, rollout="REVERTED")
    else:
        changed = replace(changed, rollout="PAUSED" if call.action == "PAUSE" else "RUNNING")
    registry.models[call.name] = changed
    return Answer(catalog_revision=registry.next_revision, rollout=changed.rollout)


def warm_model(registry: Registry, call: WarmModel) -> Answer:
    current = registry.live_model(call.name)
    registry.check_etag(current, call.etag)
    registry.models[call.name] = changed = warmed(registry, current, 0 if call.ends else registry.next_revision)
    return Answer(
        catalog_revision=registry.revision if changed is current else registry.next_revision, resource=changed
    )


def _write(registry: Registry, current: Model | None, wanted: Model, *, at_once: bool = False) -> Answer:
    changed = changed_model(registry, current, wanted, at_once=at_once)
    if changed is current:
        return Answer(catalog_revision=registry.revision, created=False, resource=changed)
    registry.check_served_name(changed.served_name, changed.name)
    registry.models[changed.name] = changed
    created = current is None or current.number != changed.number
    return Answer(catalog_revision=registry.next_revision, created=created, resource=changed)


def changed_model(registry: Registry, current: Model | None, wanted: Model, *, at_once: bool) -> Model:
    """The model that `wanted` becomes. `current` itself: nothing changes.

    A new content makes a new revision. Under a canary policy, a new spec starts a rollout. Without
    a new spec, a rollout that is under way continues. `at_once` replaces the model whatever the
    policy says, and ends a rollout that is under way.

    Args:
        registry: Gets the content of a new revision.
        current: The model as it is. None: it is new.
        wanted: The model as requested, with the revision number of `current`.
        at_once: Without a rollout.
    """
    if current is not None and wanted.content == current.content:
        ends_rollout = at_once and current.stable is not None
        if replace(wanted, catalog_revision=current.catalog_revision) == current and not ends_rollout:
            return current
        if at_once:
            wanted = replace(wanted, stable=None, rollout="")
        elif current.stable is not None:
            wanted = _continued(current, wanted)
        return replace(wanted, catalog_revision=registry.next_revision)
    registry.add_content(wanted.name, wanted.content)
    changed = replace(
        wanted, number=wanted.number + 1, catalog_revision=registry.next_revision, stable=None, rollout=""
    )
    if current is None or at_once:
        return changed
    if current.stable is not None and wanted.content.weights == current.content.weights:
        return _continued(current, changed)
    stable = current.stable or current.number
    same_spec = registry.contents[wanted.name][stable - 1].weights == wanted.content.weights
    if wanted.canary and not same_spec:
        return replace(changed, stable=stable, rollout="RUNNING")
    return changed


def _continued(current: Model, changed: Model) -> Model:
    """`changed`, which has the spec of `current`, in the rollout that is under way.

    A policy without a canary ends the rollout.
    """
    if changed.canary:
        return replace(changed, stable=current.stable, rollout=current.rollout)
    return replace(changed, stable=None, rollout="COMPLETE")


def warmed(registry: Registry, model: Model, warmed_at: int) -> Model:
    if model.warmed_at == warmed_at:
        return model
    return replace(model, is_warm=warmed_at > 0, warmed_at=warmed_at, catalog_revision=registry.next_revision)
