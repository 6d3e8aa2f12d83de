"""OpenID Connect: from JWTs of an identity provider to principals. PyJWT verifies them."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import httpx
import jwt
import structlog

from controlplane import errors
from controlplane.access.permissions import Role, highest
from controlplane.access.tokens_file import sha256
from controlplane.access.watched_file import WatchedFile
from controlplane.principal import Principal
from protocol.addresses import is_loopback
from protocol.names import RESOURCE_ID_PATTERN

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that are accepted. With a symmetric one, such as HS256, anybody who can read the key
could sign."""

LEEWAY_S = 30
"""How far the clocks of the provider and of this machine may differ. Seconds."""

KEYS_LIFETIME_S = 300.0
"""How long fetched keys are used before they are fetched again. Seconds."""

KEYS_FETCH_INTERVAL_S = 10.0
"""Between two fetches at least, so that tokens with invented key ids cause no fetches. Seconds."""

VERIFIED_MAX = 10_000
"""Tokens that are remembered as verified: about 1 KB each. To verify one takes 150 µs."""

KEYS_TIMEOUT_S = 5.0
KEYS_BYTES_MAX = 1024 * 1024

_log = structlog.get_logger("controlplane.access.oidc")

Keys = Mapping[str, jwt.PyJWK]
"""Public keys by key id."""


OWN_NAMES: Mapping[str, Role] = MappingProxyType({role.value: role for role in Role})
"""The roles by their own names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcSettings:
    """Which tokens are accepted, and what their claims mean."""

    issuer: str
    """`iss` of the tokens."""
    audience: str
    """Has to be in `aud` of the tokens: it names this control plane."""
    role_claim: str = "roles"
    """The claim with the roles, a string or a list. A dot leads into an object, as in
    `realm_access.roles`."""
    roles: Mapping[str, Role]
    """Roles by values of the claim. Other values are ignored."""
    data_plane_claim: str = "data_plane"
    """The claim with the data plane that a token of the role data-plane is for."""


class KeySource(Protocol):
    """Has the public keys of the provider."""

    async def key(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id; None: there is none.

        Raises:
            errors.Unavailable: the keys cannot be fetched.
        """


class FileKeys:
    """Keys in a JWKS file, which is read again when it changes."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            errors.SetupError: it cannot be used.
        """
        self._file = WatchedFile(path, parse_keys, guarded=False)

    async def key(self, key_id: str) -> jwt.PyJWK | None:
        return self._file.current().get(key_id)


class UrlKeys:
    """Keys at a JWKS URL. If it does not answer, the last keys stay valid."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._keys: Keys = {}
        self._fetched_at = -KEYS_LIFETIME_S
        self._tried_at = -KEYS_FETCH_INTERVAL_S
        self._lock = asyncio.Lock()

    async def key(self, key_id: str) -> jwt.PyJWK | None:
        if self._due(key_id):
            async with self._lock:
                if self._due(key_id):  # another call may have fetched it meanwhile
                    await self._fetch()
        if not self._keys:
            raise errors.Unavailable(
                errors.Reason.IDENTITY_PROVIDER_UNAVAILABLE,
                "the identity provider's keys cannot be fetched, so its tokens cannot be verified; try again later",
            )
        return self._keys.get(key_id)

    def _due(self, key_id: str) -> bool:
        now = self._clock()
        if now - self._tried_at < KEYS_FETCH_INTERVAL_S:
            return False
        return key_id not in self._keys or now - self._fetched_at >= KEYS_LIFETIME_S

    async def _fetch(self) -> None:
        self._tried_at = self._clock()
        try:
            # A proxy cannot reach a provider on the loopback of this machine.
            proxied = not is_loopback(httpx.URL(self._url).host)
            async with httpx.AsyncClient(timeout=KEYS_TIMEOUT_S, trust_env=proxied) as client:
                response = await client.get(self._url)
            response.raise_for_status()
            if len(response.content) > KEYS_BYTES_MAX:
                raise ValueError(f"more than {KEYS_BYTES_MAX} bytes")
            self._keys = parse_keys(response.content)
        except (httpx.HTTPError, ValueError) as error:
            _log.error("identity_provider_keys_not_fetched", url=self._url, error=str(error) or type(error).__name__)
        else:
            self._fetched_at = self._clock()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verified:
    """A token whose signature and claims are good. Only time and its key can change that."""

    principal: Principal
    key_id: str
    key: jwt.PyJWK
    expire_s: int
    """Its claim `exp`."""


class OidcTokens:
    """The tokens of an identity provider."""

    def __init__(self, settings: OidcSettings, keys: KeySource, *, now_s: Callable[[], float] = time.time) -> None:
        """
        Args:
            settings: Which tokens are accepted.
            keys: What they are verified with.
            now_s: The time. Seconds since 1970.
        """
        self._settings = settings
        self._keys = keys
        self._now_s = now_s
        self._verified: OrderedDict[str, _Verified] = OrderedDict()
        """By `sha256` of the token, oldest first. The credentials of open streams are looked at
        again and again."""

    async def principal_of(self, token: str) -> Principal | None:
        """The principal of a token; None: it is not a JWT of this issuer.

        Raises:
            errors.Unauthenticated: it is of this issuer, but invalid.
            errors.PermissionDenied: it is valid, but has no role here.
            errors.Unavailable: the provider's keys cannot be fetched.
        """
        digest = sha256(token)
        verified = self._verified.get(digest)
        if verified is not None and await self._keys.key(verified.key_id) is verified.key:
            if self._now_s() >= verified.expire_s + LEEWAY_S:
                raise _expired()
            return verified.principal
        try:
            header = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            return None
        if claimed.get("iss") != self._settings.issuer:
            return None
        key_id = str(header.get("kid", ""))
        key = await self._keys.key(key_id)
        if key is None:
            raise _invalid("it is signed with a key that the identity provider does not have")
        claims = self._checked(token, key)
        principal = self._principal(claims)
        self._verified[digest] = _Verified(principal=principal, key_id=key_id, key=key, expire_s=int(claims["exp"]))
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)
        return principal

    def _checked(self, token: str, key: jwt.PyJWK) -> Mapping[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                # A key is used with its own algorithm only.
                algorithms=[name for name in ALGORITHMS if key.algorithm_name == name],
                issuer=self._settings.issuer,
                audience=self._settings.audience,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.ExpiredSignatureError:
            raise _expired() from None
        except jwt.InvalidTokenError as error:
            raise _invalid(str(error)) from None

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        settings = self._settings
        subject = str(claims["sub"])
        given = _strings(_claim(claims, settings.role_claim))
        role = highest(settings.roles[value] for value in given if value in settings.roles)
        if role is None:
            raise errors.PermissionDenied(
                errors.Reason.PERMISSION_DENIED,
                f"{subject} has no role here: the claim {settings.role_claim} holds {', '.join(given) or 'nothing'}",
                metadata={"principal": subject, "role": "", "claim": settings.role_claim},
            )
        data_plane = self._data_plane(claims) if role is Role.DATA_PLANE else ""
        return Principal(name=subject, role=role, authentication="oidc", data_plane=data_plane)

    def _data_plane(self, claims: Mapping[str, Any]) -> str:
        claim = self._settings.data_plane_claim
        given = _claim(claims, claim)
        if given is None:
            return ""
        # A claim that cannot be read must not make the token one that is for any data plane.
        if not isinstance(given, str) or re.fullmatch(RESOURCE_ID_PATTERN, given) is None:
            raise _invalid(f"its claim {claim} is no id of a data plane: {str(given)[:64]!r}")
        return given


def parse_keys(content: bytes) -> Keys:
    """The signing keys of a JWKS document.

    Raises:
        ValueError: it is not a JWKS document, or has no usable key.
    """
    try:
        found = jwt.PyJWKSet.from_dict(json.loads(content)).keys
    except (jwt.PyJWTError, json.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"it is not a JWKS document: {error}") from None
    keys = {key.key_id or "": key for key in found if key.algorithm_name in ALGORITHMS}
    if not keys:
        raise ValueError(f"it has no key for any of {', '.join(ALGORITHMS)}")
    return keys


def _claim(claims: Mapping[str, Any], path: str) -> object:
    """A claim by its name, or by the dotted path to it."""
    if path in claims:  # a name may have dots: `https://example.org/roles`
        return claims[path]
    found: object = claims
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def _strings(value: object) -> Sequence[str]:
    if isinstance(value, str):
        return value.split()  # as OAuth's `scope` has them
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _expired() -> errors.Unauthenticated:
    return errors.Unauthenticated(
        errors.Reason.TOKEN_EXPIRED, "the token has expired; get a new one from the identity provider"
    )


def _invalid(why: str) -> errors.Unauthenticated:
    return errors.Unauthenticated(errors.Reason.TOKEN_INVALID, f"the token is not valid: {why}")
