"""What an error says about an id or a resource name that breaks its rule. Pure.

People give a hub's name, such as `Qwen/Qwen2.5-7B`, or a served name, where an id is expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from protocol import names

_ID = names.RESOURCE_ID_PATTERN

_ID_RULE = f"`^{_ID}$`"
"""How protovalidate's message ends when the text is no id."""

_NAME_RULES: Mapping[str, str] = MappingProxyType(
    {
        f"`^models/{_ID}$`": "models/{model}",
        f"`^models/({_ID}|-)$`": "models/{model}, or models/- for all models",
        f"`^models/{_ID}/adapters/{_ID}$`": "models/{model}/adapters/{adapter}",
        f"`^routes/{_ID}$`": "routes/{route}",
        f"`^apiKeys/{_ID}$`": "apiKeys/{api_key}",
        f"`^dataPlanes/{_ID}$`": "dataPlanes/{data_plane}",
    }
)
"""How it ends when the text is no resource name, and the form of that name."""

_TARGET_RULE = "a route cannot refer to a route"
"""How the message of the protos ends when the text is no target of a route."""

_AN_ID = "1 to 63 of a-z 0-9 . - with a letter or digit at both ends"

_SERVED_IDS = ("model_id", "adapter_id", "route_id")
"""Ids of resources that also have a served name."""

_COLLECTIONS = ("models", "routes", "apiKeys", "dataPlanes")

_SERVED_COLLECTIONS = ("models", "routes")

_ADAPTERS = "/adapters/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to write instead."""

    allowed: str
    """What is allowed, and what is nearest to the text that was given."""
    served_name: str = ""
    """The part of a resource name that may be a served name. Empty: there is none."""


def advice_on(given: str, *, field: str, rule: str) -> Advice | None:
    """Advice on a text that breaks a rule of ids or resource names. None: it is another rule.

    Args:
        given: The text.
        field: Name of its field.
        rule: What protovalidate says is allowed.
    """
    if rule.endswith(_ID_RULE):
        return Advice(allowed=_on_id(given, field))
    if rule.endswith(_TARGET_RULE):
        return _on_name(given, rule, "models", takes_adapters=False)
    form = next((form for ending, form in _NAME_RULES.items() if rule.endswith(ending)), None)
    if form is None:
        return None
    return _on_name(given, f"expected {form}", form.partition("/")[0], takes_adapters=_ADAPTERS in form)


def advice_on_resource(given: str) -> Advice | None:
    """Advice on a text that cannot be the name of a model, an adapter or a route, but begins so.

    None: it may be a resource name, or is empty.
    """
    if given.startswith("routes/") and not names.is_id(given.removeprefix("routes/")):
        return _on_name(given, "expected routes/{route}", "routes", takes_adapters=False)
    if not given.startswith("models/") or names.is_target(given):
        return None
    is_adapter = _ADAPTERS in given
    form = "models/{model}/adapters/{adapter}" if is_adapter else "models/{model}"
    return _on_name(given, f"expected {form}", "models", takes_adapters=is_adapter)


def served_name_in(name: str) -> str:
    """The served name that may have been given in place of an id. Empty: it can be none.

    A client makes `models/org/adapters/name` of `org/name`.
    """
    collection, _, rest = name.partition("/")
    return rest.replace(_ADAPTERS, "/", 1) if collection in _SERVED_COLLECTIONS else ""


def _on_id(given: str, field: str) -> str:
    advice = f"expected {_AN_ID}"
    nearest = names.nearest_id(given)
    if not nearest:
        return advice
    advice += f"; the {field.removesuffix('_id').replace('_', ' ')} id may be `{nearest}`"
    if field in _SERVED_IDS and names.is_served_name(given):
        advice += f", and the served name `{given}`"
    return advice


def _on_name(given: str, allowed: str, collection: str, *, takes_adapters: bool) -> Advice:
    allowed += f"; an id is {_AN_ID}"
    rest = given.removeprefix(f"{collection}/").removesuffix(_ADAPTERS)
    if rest.partition("/")[0] in _COLLECTIONS:
        return Advice(allowed=allowed)
    model, is_adapter, adapter = rest.rpartition(_ADAPTERS) if collection == "models" else (rest, "", "")
    served_name = (model if names.nearest_id(model) != model else "") if is_adapter else rest
    if collection not in _SERVED_COLLECTIONS or not names.is_served_name(served_name):
        served_name = ""
    nearest = [names.nearest_id(model), names.nearest_id(adapter)] if is_adapter else [names.nearest_id(rest)]
    if all(nearest) and (is_adapter or not takes_adapters):
        allowed += f"; the nearest is `{collection}/{_ADAPTERS.join(nearest)}`"
        allowed += f", and `{served_name}` may be its served name" if served_name and not is_adapter else ""
    return Advice(allowed=allowed, served_name=served_name)
