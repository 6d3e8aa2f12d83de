"""API keys: their form, their hash, and the patterns of what they may call. Pure.

A key has 256 random bits, so it cannot be guessed, and a slow or salted hash would add nothing. The
hash is SHA-256 with a prefix that separates it from other hashes. There is no server secret in it:
data planes check keys by themselves, so the secret would be stored beside the hashes it protects.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Iterable

KEY_PREFIX = "bs-"
"""Prefix of every key, by which scanners for leaked secrets find it."""

SHOWN_CHARACTERS = 8
"""Characters of a key that are stored to recognise it by, prefix included: 30 of its 256 bits."""

HASH_BYTES = 32

_DOMAIN = b"broadsheet.v1.ApiKey\0"


def key_of(secret: str) -> str:
    """The key for a secret of 43 base64url characters, which encode 32 random bytes."""
    return f"{KEY_PREFIX}{secret}"


def key_hash(key: str) -> bytes:
    """The hash that the planes store for a key, 32 bytes."""
    return hashlib.sha256(_DOMAIN + key.encode()).digest()


def pattern_of(allowed_served_names: Iterable[str]) -> re.Pattern[str]:
    """A regular expression for patterns of served names; use it with `match`."""
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in allowed_served_names) or r"(?!)")
