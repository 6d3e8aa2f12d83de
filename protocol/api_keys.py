"""API keys as both planes know them: what one looks like, its hash, and the patterns of what it may
call. Pure.

A key is 256 random bits, so one fast hash is enough: there is nothing to guess that a slow or
salted one would protect. The hash is plain SHA-256 with a prefix that tells it from other hashes. A
secret of the server's would have to be on every data plane, because they check keys without asking;
it would lie beside the hashes that it is to protect.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable

KEY_PREFIX = "bs-"
"""What every key begins with: scanners for leaked secrets find it by this."""

SHOWN_CHARACTERS = 8
"""Of a key, prefix included, that are kept to recognise it by. 30 bits of its 256."""

HASH_BYTES = 32

_DOMAIN = b"broadsheet.v1.ApiKey\0"


def key_of(secret: str) -> str:
    """The key of a secret: 43 characters of base64url, from 32 random bytes."""
    return f"{KEY_PREFIX}{secret}"


def key_hash(key: str) -> bytes:
    """The hash that a key is known by, 32 bytes."""
    return hashlib.sha256(_DOMAIN + key.encode()).digest()


def pattern_of(allowed_served_names: Iterable[str]) -> re.Pattern[str]:
    """One regular expression for patterns of served names, to be used with `match`."""
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in allowed_served_names) or r"(?!)")
