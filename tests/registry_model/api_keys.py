"""The methods of API keys, as the model of the registry has them. Pure."""

from __future__ import annotations

from dataclasses import replace

from tests.registry_model.calls import Answer, CreateApiKey, Refused, RevokeApiKey, not_found
from tests.registry_model.state import Registry
from tests.registry_model.values import ApiKey


def create_api_key(registry: Registry, call: CreateApiKey) -> Answer:
    if call.name in registry.api_keys:
        raise Refused("AlreadyExists", "API_KEY_EXISTS")
    registry.api_keys[call.name] = ApiKey(name=call.name, catalog_revision=registry.next_revision)
    return Answer(catalog_revision=registry.next_revision, resource=registry.api_keys[call.name], shows_key=True)


def revoke_api_key(registry: Registry, call: RevokeApiKey) -> Answer:
    current = registry.api_keys.get(call.name)
    if current is None:
        raise not_found("API_KEY")
    if current.is_revoked:
        return Answer(catalog_revision=registry.revision, resource=current)
    registry.api_keys[call.name] = replace(current, is_revoked=True, catalog_revision=registry.next_revision)
    registry.revocations = (*registry.revocations, call.name)
    return Answer(catalog_revision=registry.next_revision, resource=registry.api_keys[call.name])
