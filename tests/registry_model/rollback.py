"""RollbackCatalog, as the model of the registry has it. Pure."""

from __future__ import annotations

from dataclasses import replace

from tests.registry_model.adapters import changed_adapter
from tests.registry_model.calls import Answer, Refused, RollbackCatalog, not_found
from tests.registry_model.models import changed_model, warmed
from tests.registry_model.routes import changed_route
from tests.registry_model.state import Registry
from tests.registry_model.values import Content, Entry


def roll_back_catalog(registry: Registry, call: RollbackCatalog) -> Answer:
    if call.expected_revision not in (None, registry.revision):
        raise Refused("Aborted", "CONCURRENT_CHANGE")
    if call.to_revision > registry.revision:
        raise not_found("REVISION")
    now, then = registry.snapshots[-1], registry.snapshots[call.to_revision]
    differing = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
    for name in differing:
        if name in then and "/revisions/" in name and not registry.is_there(name):
            raise Refused("FailedPrecondition", "PINNED_REVISION_GONE")
    changed = sum(_put_back(registry, name, then.get(name)) for name in differing)
    return Answer(catalog_revision=registry.next_revision if changed else registry.revision, count=changed)


def _put_back(registry: Registry, name: str, entry: Entry | None) -> bool:
    """Restore the resource of an entry. Returns whether it changed.

    API keys do not change, and pinned revisions come and go with their routes.
    """
    if "/revisions/" in name or name in registry.api_keys:
        return False
    if name.startswith("routes/"):
        return _put_back_route(registry, name, entry)
    if "/adapters/" in name:
        return _put_back_adapter(registry, name, entry)
    return _put_back_model(registry, name, entry)


def _put_back_model(registry: Registry, name: str, entry: Entry | None) -> bool:
    found = registry.models[name]
    if entry is None:
        registry.models[name] = registry.deleted(found)
        return True
    served_name, team, _, content, _, warmed_at = entry
    assert isinstance(served_name, str)
    assert isinstance(team, str)
    assert isinstance(content, Content)
    assert isinstance(warmed_at, int)
    alive = replace(found, is_deleted=False, catalog_revision=registry.next_revision) if found.is_deleted else found
    changed = changed_model(
        registry, alive, replace(alive, served_name=served_name, team=team, content=content), at_once=True
    )
    registry.models[name] = warmed(registry, changed, warmed_at)
    return registry.models[name] is not found


def _put_back_adapter(registry: Registry, name: str, entry: Entry | None) -> bool:
    found = registry.adapters[name]
    if entry is None:
        registry.adapters[name] = registry.deleted(found)
        return True
    served_name, _, content = entry
    assert isinstance(served_name, str)
    assert isinstance(content, Content)
    alive = replace(found, is_deleted=False, catalog_revision=registry.next_revision) if found.is_deleted else found
    registry.adapters[name] = changed_adapter(registry, alive, replace(alive, served_name=served_name, content=content))
    return registry.adapters[name] is not found


def _put_back_route(registry: Registry, name: str, entry: Entry | None) -> bool:
    if entry is None:
        del registry.routes[name]
        return True
    served_name, _, targets, fallbacks, _ = entry
    assert isinstance(served_name, str)
    assert isinstance(targets, tuple)
    assert isinstance(fallbacks, tuple)
    found = registry.routes.get(name)
    registry.routes[name] = changed_route(registry, found, name, served_name, targets, fallbacks)
    return registry.routes[name] is not found
