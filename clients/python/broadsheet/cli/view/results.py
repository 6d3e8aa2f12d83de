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
    """Print a result in the form that the session asks for.

    Args:
        session: Where to print, and how.
        result: A JSON value, for programs.
        table: The same for people.
    """
    if session.output is Output.TABLE:
        session.stdout.print(Text(table) if isinstance(table, str) else table)
    elif session.output is Output.JSON:
        session.stdout.file.write(json.dumps(result, indent=2, ensure_ascii=session.escapes) + "\n")
    else:
        yaml.safe_dump(result, session.stdout.file, sort_keys=False, allow_unicode=not session.escapes)


def to_json(message: Message) -> dict[str, object]:
    """The JSON form of a message, with the proto's field names and with default values."""
    fields = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {name: _whole_numbers(value) for name, value in fields.items()}


def to_list(name: str, messages: Iterable[Message]) -> dict[str, object]:
    """The JSON form of a list: an object with one field, like the List responses of the API."""
    return {name: [to_json(message) for message in messages]}


def _whole_numbers(value: object) -> object:
    """Engine arguments are doubles on the wire: 2048.0 is shown as 2048."""
    if isinstance(value, dict):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
