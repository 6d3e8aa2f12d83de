"""Resource names as in Google's AIP-122: `models/{model}/adapters/{adapter}`. Pure.

The planes and the client build and parse resource names only here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RESOURCE_ID_PATTERN = r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?"
"""A resource id: 1 to 63 of `a-z 0-9 . -`, with a letter or digit at both ends. The protos state
the same pattern."""

RESOURCE_ID_LENGTH_MAX = 63

SERVED_NAME_CHARACTERS_MAX = 256
SERVED_NAME_PATTERN = rf"[A-Za-z0-9._:/@-]{{1,{SERVED_NAME_CHARACTERS_MAX}}}"
"""A served name: the text in OpenAI's `model` field. The protos state the same pattern."""

_MODEL = re.compile(rf"models/(?P<model>{RESOURCE_ID_PATTERN})")
_ADAPTER = re.compile(rf"models/(?P<model>{RESOURCE_ID_PATTERN})/adapters/(?P<adapter>{RESOURCE_ID_PATTERN})")
_ROUTE = re.compile(rf"routes/(?P<route>{RESOURCE_ID_PATTERN})")
_TARGET = re.compile(
    rf"models/(?P<model>{RESOURCE_ID_PATTERN})(/adapters/(?P<adapter>{RESOURCE_ID_PATTERN}))?"
    r"(/revisions/(?P<number>[1-9][0-9]{0,17}))?"
)
_API_KEY = re.compile(rf"apiKeys/(?P<api_key>{RESOURCE_ID_PATTERN})")
_DATA_PLANE = re.compile(rf"dataPlanes/(?P<data_plane>{RESOURCE_ID_PATTERN})")


def nearest_id(name: str) -> str:
    """The resource id nearest to another kind of name, such as a hub's. Empty: there is none."""
    last = name.rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9.-]+", "-", last).strip(".-")[:RESOURCE_ID_LENGTH_MAX].strip(".-")


def is_id(text: str) -> bool:
    """Whether a resource may have `text` as its id."""
    return re.fullmatch(RESOURCE_ID_PATTERN, text) is not None


def is_served_name(text: str) -> bool:
    """Whether a resource may be served under `text`."""
    return re.fullmatch(SERVED_NAME_PATTERN, text) is not None


def is_target(name: str) -> bool:
    """Whether it is the name of a model, an adapter, or a revision of either."""
    return _TARGET.fullmatch(name) is not None


def model_name(model_id: str) -> str:
    """Resource name of a model."""
    return f"models/{model_id}"


def model_revision_name(model_id: str, number: int) -> str:
    """Resource name of a model revision."""
    return f"models/{model_id}/revisions/{number}"


def adapter_name(model_id: str, adapter_id: str) -> str:
    """Resource name of an adapter."""
    return f"models/{model_id}/adapters/{adapter_id}"


def adapter_revision_name(model_id: str, adapter_id: str, number: int) -> str:
    """Resource name of an adapter revision."""
    return f"models/{model_id}/adapters/{adapter_id}/revisions/{number}"


def route_name(route_id: str) -> str:
    """Resource name of a route."""
    return f"routes/{route_id}"


def route_revision_name(route_id: str, number: int) -> str:
    """Resource name of a route revision."""
    return f"routes/{route_id}/revisions/{number}"


def data_plane_name(data_plane_id: str) -> str:
    """Resource name of a data plane."""
    return f"dataPlanes/{data_plane_id}"


def api_key_name(api_key_id: str) -> str:
    """Resource name of an API key."""
    return f"apiKeys/{api_key_id}"


def parse_api_key(name: str) -> str:
    """The id in `apiKeys/{api_key}`.

    Raises:
        ValueError: `name` is not the name of an API key.
    """
    match = _API_KEY.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of an API key; expected apiKeys/{{api_key}}")
    return match["api_key"]


def parse_model(name: str) -> str:
    """The model id in `models/{model}`.

    Raises:
        ValueError: `name` is not the name of a model.
    """
    match = _MODEL.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not a model name; expected models/{{model}}")
    return match["model"]


def parse_adapter(name: str) -> tuple[str, str]:
    """Model id and adapter id in `models/{model}/adapters/{adapter}`.

    Raises:
        ValueError: `name` is not the name of an adapter.
    """
    match = _ADAPTER.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not an adapter name; expected models/{{model}}/adapters/{{adapter}}")
    return match["model"], match["adapter"]


def parse_data_plane(name: str) -> str:
    """The data plane id in `dataPlanes/{data_plane}`.

    Raises:
        ValueError: `name` is not the name of a data plane.
    """
    match = _DATA_PLANE.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not a data plane name; expected dataPlanes/{{data_plane}}")
    return match["data_plane"]


def parse_route(name: str) -> str:
    """The route id in `routes/{route}`.

    Raises:
        ValueError: `name` is not the name of a route.
    """
    match = _ROUTE.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not a route name; expected routes/{{route}}")
    return match["route"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a route may refer to: a model or an adapter, current or pinned to a revision."""

    model_id: str
    adapter_id: str | None
    """None: the model itself."""
    number: int | None
    """Number of the pinned revision. None: the one that is served."""

    @property
    def resource(self) -> str:
        """Resource name of the model or adapter, without its revision."""
        return model_name(self.model_id) if self.adapter_id is None else adapter_name(self.model_id, self.adapter_id)

    @property
    def name(self) -> str:
        """Resource name, with the revision if it is pinned."""
        return self.resource if self.number is None else f"{self.resource}/revisions/{self.number}"


def parse_target(name: str) -> Target:
    """Parse the resource of a target or fallback.

    Raises:
        ValueError: `name` is not the name of a model, an adapter, or a revision of either.
    """
    match = _TARGET.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{name!r} cannot be a target; expected models/{{model}} or models/{{model}}/adapters/{{adapter}}, "
            "with or without /revisions/{number}"
        )
    number = match["number"]
    return Target(model_id=match["model"], adapter_id=match["adapter"], number=int(number) if number else None)
