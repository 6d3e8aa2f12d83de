"""Resources as YAML that `apply` can read back. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value

from broadsheet.specs.requests import OWNER_LABEL, Request
from broadsheet.types import (
    Adapter,
    Model,
    RegisterAdapterRequest,
    RegisterModelRequest,
    Route,
    SetRouteRequest,
)

Resource = Model | Adapter | Route

_INTEGER_MAX = 1 << 53
"""Engine arguments are doubles. Up to this size a whole number is written as an integer."""


def request_of(resource: Resource) -> Request:
    """The request that would create a resource, without the label that `apply` sets."""
    labels = {key: resource.labels[key] for key in sorted(resource.labels) if key != OWNER_LABEL}
    if isinstance(resource, Model):
        return RegisterModelRequest(
            model_id=resource.name.removeprefix("models/"),
            served_name=resource.served_name,
            spec=resource.revision.spec,
            card=resource.revision.card,
            labels=labels,
            rollout_policy=resource.rollout_policy if resource.HasField("rollout_policy") else None,
        )
    if isinstance(resource, Adapter):
        parent, _, adapter_id = resource.name.partition("/adapters/")
        return RegisterAdapterRequest(
            parent=parent,
            adapter_id=adapter_id,
            served_name=resource.served_name,
            source=resource.revision.source,
            card=resource.revision.card,
            labels=labels,
        )
    return SetRouteRequest(
        route_id=resource.name.removeprefix("routes/"),
        served_name=resource.served_name,
        spec=resource.revision.spec,
        labels=labels,
    )


def fields_of(message: Message) -> dict[str, Any]:
    """The fields of a message that are set, as a YAML file has them."""
    fields: dict[str, Any] = {}
    for descriptor, value in message.ListFields():
        type_ = descriptor.message_type
        if type_ is not None and type_.GetOptions().map_entry:
            fields[descriptor.name] = {key: value[key] for key in sorted(value)}
        elif descriptor.is_repeated:
            fields[descriptor.name] = [_value(item, descriptor) for item in value]
        else:
            fields[descriptor.name] = _value(value, descriptor)
    return fields


def to_yaml(request: Request, *, escapes: bool = False) -> str:
    """A YAML document.

    Args:
        request: What it declares.
        escapes: Whether it is in ASCII, with escapes for other characters.
    """
    return yaml.dump(
        fields_of(request), Dumper=_Dumper, sort_keys=False, allow_unicode=not escapes, default_flow_style=False
    )


class _Dumper(yaml.SafeDumper):
    """Writes every text so that reading it gives the same text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes these line breaks unescaped and reads them back as other ones. In double quotes
    # it escapes them.
    style = '"' if _BREAKS.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
_BREAKS = re.compile("[\r\x85\u2028\u2029\ufeff]")


def _value(value: Any, descriptor: FieldDescriptor) -> Any:
    if isinstance(value, Struct):
        return _struct(value.fields)
    if isinstance(value, Duration):
        return value.ToJsonString()
    if isinstance(value, Message):
        return fields_of(value)
    if descriptor.enum_type is not None:
        prefix = descriptor.enum_type.values[0].name.removesuffix("UNSPECIFIED")
        return descriptor.enum_type.values_by_number[value].name.removeprefix(prefix)
    return value


def _struct(fields: Mapping[str, Value]) -> dict[str, Any]:
    return {key: _plain(fields[key]) for key in sorted(fields)}


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _struct(value.struct_value.fields)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    if kind == "number_value":
        number = value.number_value
        # Integers have no negative zero.
        is_whole = number.is_integer() and abs(number) <= _INTEGER_MAX and str(number) != "-0.0"
        return int(number) if is_whole else number
    return None if kind in (None, "null_value") else getattr(value, kind)
