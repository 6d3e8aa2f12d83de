"""The registry after a call, and after calls at the same time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tests.registry_model import adapters, api_keys, calls, models, rollback, routes
from tests.registry_model.calls import Answer, Call, Outcome, Refusal, Refused, RollbackCatalog
from tests.registry_model.state import Registry

_METHODS: Mapping[type[Call], Callable[[Registry, Any], Answer]] = {
    calls.RegisterModel: models.register_model,
    calls.UpdateModel: models.update_model,
    calls.RollbackModel: models.roll_back_model,
    calls.DeleteModel: models.delete_model,
    calls.UndeleteModel: models.undelete_model,
    calls.ControlRollout: models.control_rollout,
    calls.WarmModel: models.warm_model,
    calls.RegisterAdapter: adapters.register_adapter,
    calls.UpdateAdapter: adapters.update_adapter,
    calls.RollbackAdapter: adapters.roll_back_adapter,
    calls.DeleteAdapter: adapters.delete_adapter,
    calls.UndeleteAdapter: adapters.undelete_adapter,
    calls.SetRoute: routes.set_route,
    calls.DeleteRoute: routes.delete_route,
    calls.CreateApiKey: api_keys.create_api_key,
    calls.RevokeApiKey: api_keys.revoke_api_key,
    calls.RollbackCatalog: rollback.roll_back_catalog,
}


def after(registry: Registry, call: Call) -> tuple[Registry, Outcome]:
    """The registry after `call`, and the answer. `registry` itself does not change."""
    if call.request_id in registry.answered:
        first, answer = registry.answered[call.request_id]
        if first == call:
            # A key is shown only once.
            return registry, replace(answer, shows_key=False)
        return registry, Refusal("InvalidArgument", "REQUEST_ID_REUSED")
    changed = registry.copy()
    try:
        answer = _METHODS[type(call)](changed, call)
    except Refused as refused:
        return registry, refused.refusal
    if call.validate_only:
        return registry, replace(answer, shows_key=False)
    if call.request_id:
        changed.answered[call.request_id] = (call, answer)
    if answer.catalog_revision == changed.next_revision:
        resource = f"snapshots/{call.to_revision}" if isinstance(call, RollbackCatalog) else getattr(call, "name", "")
        changed.commit(type(call).__name__, resource)
    return changed, answer


def after_rollouts_advance(registry: Registry) -> Registry:
    """The registry once all data planes have reported all candidates healthy for long enough."""
    changed = registry.copy()
    for model in sorted(registry.models.values(), key=lambda model: model.name):
        if model.rollout == "RUNNING" and not model.is_deleted:
            changed.models[model.name] = replace(
                model, rollout="COMPLETE", stable=None, catalog_revision=changed.next_revision
            )
            changed.commit("AdvanceRollout", model.name)
    return changed


def after_all(registry: Registry, calls: Sequence[tuple[Call, Outcome]]) -> Registry | None:
    """The registry after calls at the same time, if some order explains every outcome.

    The catalog revisions in the answers order the calls that committed. The places of the others
    are found by trial. So there is at most one such registry.

    Returns:
        None: No order explains the outcomes.
    """
    if not calls:
        return registry
    for index, (call, outcome) in enumerate(calls):
        changed, expected = after(registry, call)
        if not _same(outcome, expected):
            continue
        found = after_all(changed, (*calls[:index], *calls[index + 1 :]))
        if found is not None:
            return found
    return None


def _same(outcome: Outcome, expected: Outcome) -> bool:
    if isinstance(outcome, Refusal) and isinstance(expected, Refusal) and outcome.status == "NotFound":
        # An adapter and its base are looked up one by one, so either may be reported missing when
        # both were deleted.
        return expected.status == "NotFound"
    return outcome == expected
