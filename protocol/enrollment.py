"""Enrolment of data planes: the form of its secrets, and their hashes. Pure.

Both secrets have 256 random bits, so they cannot be guessed, and a slow or salted hash would add
nothing. The hash is SHA-256 with a prefix that separates it from other hashes.
"""

from __future__ import annotations

import hashlib

TOKEN_PREFIX = "bs-enroll-"  # noqa: S105  # no password
"""Prefix of every enrolment token, by which scanners for leaked secrets find it."""

CREDENTIAL_PREFIX = "bs-data-plane-"
"""The same of credentials that data planes make for themselves."""

SECRET_BYTES = 32
"""Random bytes of both."""

SECRET_CHARACTERS_MAX = 128
"""A longer text is neither."""

HASH_BYTES = 32

_TOKEN_DOMAIN = b"broadsheet.v1.EnrollmentToken\0"
_CREDENTIAL_DOMAIN = b"broadsheet.v1.DataPlaneCredential\0"


def token_of(secret: str) -> str:
    """The enrolment token for a secret of 43 base64url characters, which encode 32 random bytes."""
    return f"{TOKEN_PREFIX}{secret}"


def credential_of(secret: str) -> str:
    """The credential for such a secret."""
    return f"{CREDENTIAL_PREFIX}{secret}"


def token_hash(token: str) -> bytes:
    """The hash that the control plane stores for an enrolment token, 32 bytes."""
    return hashlib.sha256(_TOKEN_DOMAIN + token.encode()).digest()


def credential_hash(credential: str) -> bytes:
    """The same for a credential."""
    return hashlib.sha256(_CREDENTIAL_DOMAIN + credential.encode()).digest()
