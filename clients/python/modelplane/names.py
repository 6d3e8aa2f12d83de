"""Resource names, the way Google's AIP-122 spells them: `models/{model}`, `models/{model}/adapters/{adapter}`.

Pure. Both planes and the client build and take apart resource names here and nowhere else.
"""

from __future__ import annotations

import re

RESOURCE_ID_PATTERN = r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?"
"""A resource id: 1 to 63 of `a-z 0-9 . -`, with a letter or digit at both ends. The protos state the same pattern."""

SERVED_NAME_PATTERN = r"[A-Za-z0-9._:/@-]{1,256}"
"""A served name: what stands in OpenAI's `model` field. The protos state the same pattern."""

_MODEL = re.compile(rf"models/(?P<model>{RESOURCE_ID_PATTERN})")
_ADAPTER = re.compile(rf"models/(?P<model>{RESOURCE_ID_PATTERN})/adapters/(?P<adapter>{RESOURCE_ID_PATTERN})")
_DATA_PLANE = re.compile(rf"dataPlanes/(?P<data_plane>{RESOURCE_ID_PATTERN})")


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


def data_plane_name(data_plane_id: str) -> str:
    """Resource name of a data plane."""
    return f"dataPlanes/{data_plane_id}"


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
