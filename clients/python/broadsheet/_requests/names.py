"""Resource names from the short forms that users write. Pure.

A text that is neither is passed on: the control plane rejects it and names the field.
"""

from __future__ import annotations

from protocol import names

_COLLECTIONS = ("models", "routes", "apiKeys", "snapshots", "dataPlanes")
"""First segments of resource names."""


def model_resource(name_or_id: str) -> str:
    """`models/{model}` from itself or from the id."""
    return name_or_id if name_or_id.startswith("models/") else names.model_name(name_or_id)


def adapter_resource(name: str) -> str:
    """`models/{model}/adapters/{adapter}` from itself or from `{model}/{adapter}`."""
    if name.startswith("models/"):
        return name
    # A hub's name has a slash of its own: the last one is before the adapter.
    model_id, slash, adapter_id = name.rpartition("/")
    return names.adapter_name(model_id, adapter_id) if slash else names.adapter_name(name, "")


def route_resource(name_or_id: str) -> str:
    """`routes/{route}` from itself or from the id."""
    return name_or_id if name_or_id.startswith("routes/") else names.route_name(name_or_id)


def target_resource(name: str) -> str:
    """The target of a route, from a resource name, `{model}` or `{model}/{adapter}`."""
    if name.startswith(("models/", "routes/")):
        return name
    return adapter_resource(name) if is_adapter(name) else model_resource(name)


def api_key_resource(name_or_id: str) -> str:
    """`apiKeys/{api_key}` from itself or from the id."""
    return name_or_id if name_or_id.startswith("apiKeys/") else names.api_key_name(name_or_id)


def data_plane_resource(name_or_id: str) -> str:
    """`dataPlanes/{data_plane}` from itself or from the id."""
    return name_or_id if name_or_id.startswith("dataPlanes/") else names.data_plane_name(name_or_id)


def any_resource(name: str) -> str:
    """A resource name from itself, from a model id, or from `{model}/{adapter}`."""
    collection, slash, _ = name.partition("/")
    if not slash:
        return names.model_name(name)
    return name if collection in _COLLECTIONS else target_resource(name)


def is_adapter(resource: str) -> bool:
    """Whether a name or short form is an adapter's: `models/m/adapters/a` or `m/a`."""
    if resource.startswith("models/"):
        return "/adapters/" in resource
    model_id, _, adapter_id = resource.partition("/")
    return names.is_id(model_id) and names.is_id(adapter_id)
