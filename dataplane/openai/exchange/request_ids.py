"""Ids of requests: those that callers give, and new ones."""

from __future__ import annotations

import os
import re

_GIVEN = re.compile(rb"[\x21-\x7e]{1,128}")
"""Short and printable: it is written to logs."""
_MADE_AT_ONCE = 256
"""Ids for which random bytes are read at once: each read is a system call."""
_VARIANTS = "89ab"


class RequestIds:
    """Names requests."""

    def __init__(self) -> None:
        self._made: list[str] = []

    def of(self, given: bytes | None) -> str:
        """The caller's id if it is short and printable, else a new one.

        Args:
            given: The value of its `x-request-id`.
        """
        if given is not None and _GIVEN.fullmatch(given):
            return given.decode()
        if not self._made:
            self._made = _uuids(_MADE_AT_ONCE)
        return self._made.pop()


def _uuids(count: int) -> list[str]:
    """So many random UUIDs (version 4, RFC 9562), as `uuid.uuid4` makes them."""
    digits = os.urandom(16 * count).hex()
    found = []
    for at in range(0, len(digits), 32):
        one = digits[at : at + 32]
        variant = _VARIANTS[int(one[16], 16) & 3]
        found.append(f"{one[:8]}-{one[8:12]}-4{one[13:16]}-{variant}{one[17:20]}-{one[20:]}")
    return found
