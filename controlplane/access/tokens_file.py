"""The tokens file: principals and roles by the SHA-256 of their tokens.

Its format:

tokens:
  - name: ci
    role: publisher
    sha256: 5e884898da28047151d0e56f8dc6292773603d0d6aabbd62a11ef721d1542d8e
    expire_time: 2027-01-01T00:00:00Z   # optional
  - name: gpu-1
    role: data-plane
    data_plane: gpu-1                   # the only data plane that it is for
    sha256: …
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from controlplane import errors
from controlplane.access.permissions import Role
from controlplane.access.watched_file import WatchedFile
from controlplane.principal import Principal
from protocol.names import RESOURCE_ID_PATTERN

_TOKENS_MAX = 10_000
"""A larger installation uses an identity provider."""


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class _Parsed:
    tokens: Mapping[str, _Known]
    """By the SHA-256 of the token."""
    bound_ids: AbstractSet[str]
    """Data planes that a token is for, even if it has expired."""


class _Token(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@/-]{0,127}$")]
    role: Role
    # A fast hash is enough, because a token is random and cannot be guessed. It must not be a
    # password.
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    expire_time: AwareDatetime | None = None
    data_plane: Annotated[str, Field(pattern=f"^{RESOURCE_ID_PATTERN}$")] = ""

    @model_validator(mode="after")
    def _only_data_planes_have_a_data_plane(self) -> _Token:
        if self.data_plane and self.role is not Role.DATA_PLANE:
            raise ValueError(f"data_plane is for the role data-plane, and this role is {self.role}")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Annotated[tuple[_Token, ...], Field(max_length=_TOKENS_MAX)]

    @model_validator(mode="after")
    def _are_distinct(self) -> _File:
        for field in ("name", "sha256"):
            seen: set[str] = set()
            for token in self.tokens:
                value: str = getattr(token, field)
                if value in seen:
                    raise ValueError(f"two tokens have the {field} {value}")
                seen.add(value)
        return self


class TokensFile:
    """The tokens of a tokens file, which is read again when it changes."""

    def __init__(self, path: Path, *, now: Callable[[], datetime]) -> None:
        """
        Args:
            path: The file; others must not be able to change it.
            now: The time (aware).

        Raises:
            errors.SetupError: it cannot be used.
        """
        self._file = WatchedFile(path, _parse, guarded=True)
        self._now = now

    async def principal_of(self, token: str) -> Principal | None:
        """The principal of a token; None: it is not in the file.

        Raises:
            errors.Unauthenticated: it has expired.
        """
        # The time of the lookup may reveal how much a hash agrees with a known hash, but that says
        # nothing about the known token.
        known = self._file.current().tokens.get(sha256(token))
        if known is None:
            return None
        if known.expire_time is not None and self._now() >= known.expire_time:
            raise errors.Unauthenticated(
                errors.Reason.TOKEN_EXPIRED,
                f"the token {known.principal.name} expired at {known.expire_time.isoformat()}",
                metadata={"expireTime": known.expire_time.isoformat()},
            )
        return known.principal

    def bound_ids(self) -> AbstractSet[str]:
        """The data planes that have a token of their own."""
        return self._file.current().bound_ids


class FixedTokens:
    """Tokens that this control plane has generated."""

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        """
        Args:
            principals: By `sha256` of the token.
        """
        self._principals = principals

    async def principal_of(self, token: str) -> Principal | None:
        """The principal of a token; None: it is unknown."""
        return self._principals.get(sha256(token))


def sha256(token: str) -> str:
    """The SHA-256 of a token, in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def _parse(content: bytes) -> _Parsed:
    try:
        # Editors and generators end a file with `---`, which begins a document without content.
        documents = [document for document in yaml.safe_load_all(content) if document is not None]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"it is not YAML{f' (line {mark.line + 1})' if mark is not None else ''}") from None
    if len(documents) > 1:
        raise ValueError(f"it has {len(documents)} YAML documents; expected one")
    try:
        parsed = _File.model_validate(documents[0] if documents else None)
    except ValidationError as error:
        raise ValueError(_lines(error)) from None
    return _Parsed(
        tokens={token.sha256: _Known(_principal(token), token.expire_time) for token in parsed.tokens},
        bound_ids=frozenset(token.data_plane for token in parsed.tokens if token.data_plane),
    )


def _principal(token: _Token) -> Principal:
    return Principal(name=token.name, role=token.role, authentication="token", data_plane=token.data_plane)


def _lines(error: ValidationError) -> str:
    # Without the input: a file may have tokens where hashes belong, and they must not be logged.
    details: Sequence[str] = [
        f"{'.'.join(str(part) for part in detail['loc']) or 'the file'}: {detail['msg'].removeprefix('Value error, ')}"
        for detail in error.errors(include_input=False, include_context=False)
    ]
    return "; ".join(details[:5])
