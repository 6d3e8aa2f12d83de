"""Results on stdout: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable

import yaml
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import RenderableType
from rich.text import Text

from broadsheet.cli.session import Output, Session


def show(session: Session, result: object, table: RenderableType) -> None:
    """Print a result: `table` for people, else `result`, which is a JSON value."""
    if session.output is Output.TABLE:
        session.stdout.print(Text(table) if isinstance(table, str) else table)
    elif session.output is Output.JSON:
        session.stdout.file.write(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    else:
        yaml.safe_dump(result, session.stdout.file, sort_keys=False, allow_unicode=True)


def to_json(message: Message) -> dict[str, object]:
    """Proto's JSON form, with the field names of the protos, and fields that are at their
    default."""
    fields = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {name: _whole_numbers(value) for name, value in fields.items()}


def to_list(name: str, messages: Iterable[Message]) -> dict[str, object]:
    """The JSON of a list: an object with one field, like the API's own List responses."""
    return {name: [to_json(message) for message in messages]}


def _whole_numbers(value: object) -> object:
    """Engine arguments are doubles on the wire; 2048 is to be shown as 2048."""
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
