"""What a client may not say, and the checks of a message that need no state. Pure."""

from __future__ import annotations

from typing import NoReturn

from broadsheet.v1 import snapshot_pb2, status_pb2
from controlplane.catalog.convert import position_from_proto
from controlplane.catalog.domain import Position
from protocol.validation import FieldViolation

STORE_UID_CHARACTERS_MAX = 64
DIGEST_BYTES = 32
NAME_CHARACTERS_MAX = 256
TEXT_CHARACTERS_MAX = 4096
"""Of each text in the status of a resource."""


class ProtocolViolation(Exception):
    """The client sent a message that is invalid, or illegal in this state. It changed nothing."""

    by = "client"

    def __init__(self, message: str, violations: tuple[FieldViolation, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.violations = violations
        """Fields that are invalid in any state; empty: the message came at the wrong time."""


def refuse(message: str, field: str = "") -> NoReturn:
    """Raise a `ProtocolViolation`, of a field if it has a name."""
    violations = (FieldViolation(field=field, description=message),) if field else ()
    raise ProtocolViolation(message, violations)


def checked_position(field: str, message: snapshot_pb2.Position) -> Position:
    """The position in `message`.

    Raises:
        ProtocolViolation: it is invalid.
    """
    position = position_from_proto(message)
    if not 1 <= len(position.store_uid) <= STORE_UID_CHARACTERS_MAX:
        refuse(
            f"a position needs the uid of its store, 1 to {STORE_UID_CHARACTERS_MAX} characters", f"{field}.store_uid"
        )
    if position.revision < 0:
        refuse(f"got {position.revision}: a revision is 0 or more", f"{field}.revision")
    if len(position.digest) != DIGEST_BYTES:
        refuse(f"got {len(position.digest)} bytes: a digest has {DIGEST_BYTES}", f"{field}.digest")
    return position


def check_name(field: str, name: str) -> None:
    """Check the length of a resource name, which is part of a key in the database.

    Raises:
        ProtocolViolation: it is empty or too long.
    """
    if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
        refuse(f"got {len(name)} characters: a name has 1 to {NAME_CHARACTERS_MAX}", field)


def check_resource(resource: status_pb2.ResourceStatus) -> None:
    """Check the lengths of a resource's status.

    Raises:
        ProtocolViolation: it is invalid.
    """
    check_name("status.resources.name", resource.name)
    for field, text in (
        ("reason", resource.reason),
        ("message", resource.message),
        ("application", resource.application),
    ):
        if len(text) > TEXT_CHARACTERS_MAX:
            refuse(f"got {len(text)} characters: allowed are {TEXT_CHARACTERS_MAX}", f"status.resources.{field}")


def require_serving(got: Position | None, expected: Position | None) -> None:
    """Check which snapshot a client says it serves.

    Raises:
        ProtocolViolation: `got` is another position than `expected`.
    """
    if got != expected:
        refuse(f"it serves {_describe(got)}, expected was {_describe(expected)}", "status.serving")


def _describe(position: Position | None) -> str:
    return "nothing" if position is None else f"{position.store_uid}@{position.revision}#{position.digest.hex()[:12]}"
