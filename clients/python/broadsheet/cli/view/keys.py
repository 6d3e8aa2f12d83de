"""API keys on the screen."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import RenderableType

from broadsheet.cli.view.parts import add_row, age, new_table, or_none
from broadsheet.types import ApiKey


def keys_table(keys: Iterable[ApiKey]) -> RenderableType:
    """API keys, one per line."""
    table = new_table("KEY", "STATE", "BEGINS WITH", "MAY USE", "REQUESTS/MIN", "TOKENS/MIN", "EXPIRES", "CREATED")
    for key in keys:
        add_row(
            table,
            key.name.removeprefix("apiKeys/"),
            _state(key),
            key.key_prefix,
            ", ".join(key.limits.allowed_served_names),
            _limit(key.limits.requests_per_minute),
            _limit(key.limits.tokens_per_minute),
            _time(key),
            age(key.create_time),
        )
    return or_none(table, "no API keys; create one: broadsheet key create ID")


def key_view(key: ApiKey) -> RenderableType:
    """Everything about one key."""
    table = new_table("", "")
    table.show_header = False
    add_row(table, "Key", key.name)
    add_row(table, "State", _state(key))
    add_row(table, "Name", key.display_name or "-")
    add_row(table, "Begins with", key.key_prefix)
    add_row(table, "May use", ", ".join(key.limits.allowed_served_names))
    add_row(table, "Requests a minute", _limit(key.limits.requests_per_minute))
    add_row(table, "Tokens a minute", _limit(key.limits.tokens_per_minute))
    add_row(table, "Expires", _time(key))
    add_row(table, "Labels", ", ".join(f"{name}={value}" for name, value in sorted(key.labels.items())) or "-")
    add_row(table, "Created", age(key.create_time))
    if key.HasField("revoke_time"):
        add_row(table, "Revoked", age(key.revoke_time))
    return table


def _state(key: ApiKey) -> str:
    if key.HasField("revoke_time"):
        return "REVOKED"
    expired = key.HasField("expire_time") and key.expire_time.ToNanoseconds() <= time.time_ns()
    return "EXPIRED" if expired else "ACTIVE"


def _limit(per_minute: int) -> str:
    return str(per_minute) if per_minute else "any"


def _time(key: ApiKey) -> str:
    return key.expire_time.ToJsonString() if key.HasField("expire_time") else "never"
