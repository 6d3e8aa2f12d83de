"""The methods of adapters, as the model of the registry has them. Pure."""

from __future__ import annotations

from dataclasses import replace

from tests.registry_model.calls import (
    Answer,
    DeleteAdapter,
    Refused,
    RegisterAdapter,
    RollbackAdapter,
    UndeleteAdapter,
    UpdateAdapter,
    not_found,
)
from tests.registry_model.routes import release_from_routes
from tests.registry_model.state import Registry
from tests.registry_model.values import Adapter, Content


def register_adapter(registry: Registry, call: RegisterAdapter) -> Answer:
    registry.live_model(call.name.partition("/adapters/")[0])
    current = registry.adapters.get(call.name)
    registry.check_registrable(current, call)
    return _write(
        registry,
        current,
        Adapter(
            name=call.name,
            served_name=call.served_name or _default_served_name(registry, call.name),
            number=current.number if current else 0,
            content=call.content,
        ),
    )


def update_adapter(registry: Registry, call: UpdateAdapter) -> Answer:
    current = registry.live_adapter(call.name)
    registry.check_etag(current, call.etag)
    wanted = current
    if call.text is not None:
        wanted = replace(wanted, content=Content(current.content.weights, call.text))
    if call.served_name is not None:
        wanted = replace(wanted, served_name=call.served_name or _default_served_name(registry, call.name))
    return _write(registry, current, wanted)


def roll_back_adapter(registry: Registry, call: RollbackAdapter) -> Answer:
    current = registry.live_adapter(call.name)
    if call.number > current.number:
        raise not_found("REVISION")
    registry.check_etag(current, call.etag)
    return _write(registry, current, replace(current, content=registry.contents[call.name][call.number - 1]))


def delete_adapter(registry: Registry, call: DeleteAdapter) -> Answer:
    current = registry.live_adapter(call.name)
    registry.check_etag(current, call.etag)
    release_from_routes(registry, call.name, force=call.force)
    registry.adapters[call.name] = registry.deleted(current)
    return Answer(catalog_revision=registry.next_revision, resource=registry.adapters[call.name])


def undelete_adapter(registry: Registry, call: UndeleteAdapter) -> Answer:
    current = registry.adapters.get(call.name)
    if current is None:
        raise not_found("ADAPTER")
    registry.check_etag(current, call.etag)
    if current.is_deleted and registry.models[current.base].is_deleted:
        raise Refused("FailedPrecondition", "BASE_MODEL_DELETED")
    registry.adapters[call.name] = registry.undeleted(current)
    return Answer(catalog_revision=registry.next_revision, resource=registry.adapters[call.name])


def _default_served_name(registry: Registry, name: str) -> str:
    base, _, adapter_id = name.partition("/adapters/")
    return f"{registry.models[base].served_name}:{adapter_id}"


def _write(registry: Registry, current: Adapter | None, wanted: Adapter) -> Answer:
    changed = changed_adapter(registry, current, wanted)
    if changed is current:
        return Answer(catalog_revision=registry.revision, created=False, resource=changed)
    registry.check_served_name(changed.served_name, changed.name)
    registry.adapters[changed.name] = changed
    created = current is None or current.number != changed.number
    return Answer(catalog_revision=registry.next_revision, created=created, resource=changed)


def changed_adapter(registry: Registry, current: Adapter | None, wanted: Adapter) -> Adapter:
    if current is not None and wanted.content == current.content:
        if replace(wanted, catalog_revision=current.catalog_revision) == current:
            return current
        return replace(wanted, catalog_revision=registry.next_revision)
    registry.add_content(wanted.name, wanted.content)
    return replace(wanted, number=wanted.number + 1, catalog_revision=registry.next_revision)
