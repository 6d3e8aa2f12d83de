"""API keys as requests are checked by them. Pure."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from broadsheet.v1 import api_key_pb2
from dataplane.openai import errors as openai_errors
from protocol.api_keys import key_hash, pattern_of

_EVERYTHING = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key that was not revoked."""

    name: str
    """`apiKeys/{api_key}`."""
    uid: str
    """A key that is made again under the name of another is another one."""
    hash: bytes = field(repr=False)
    patterns: tuple[str, ...]
    """Of served names; sorted, so that keys with the same ones see the same."""
    requests_per_minute: int
    """0: as many as one likes."""
    tokens_per_minute: int
    """0: as many as one likes."""
    expires_at: float | None
    """Seconds since the epoch; None: never."""
    _allowed: re.Pattern[str] = field(repr=False, compare=False)

    @classmethod
    def of(cls, entry: api_key_pb2.ApiKeyEntry) -> ApiKey:
        """The key of an entry that `accept` has checked."""
        limits = entry.limits
        return cls(
            name=entry.name,
            uid=entry.uid,
            hash=entry.key_hash,
            patterns=tuple(sorted(limits.allowed_served_names)),
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
            expires_at=entry.expire_time.seconds + entry.expire_time.nanos / 1e9
            if entry.HasField("expire_time")
            else None,
            _allowed=pattern_of(limits.allowed_served_names),
        )

    @property
    def sees_everything(self) -> bool:
        """Whether every served name is its to call."""
        return _EVERYTHING in self.patterns

    def may_use(self, served_name: str) -> bool:
        """Whether it may call and see a served name."""
        return self._allowed.match(served_name) is not None


def find(api_keys: Mapping[bytes, ApiKey], given: str | None, *, now: float) -> ApiKey:
    """The key that a caller has given.

    Args:
        api_keys: By hash.
        given: What came in the header; None: nothing.
        now: Seconds since the epoch.

    Raises:
        openai_errors.ApiKeyMissing: nothing came.
        openai_errors.ApiKeyInvalid: it is none of these.
        openai_errors.ApiKeyExpired: its time is over.
    """
    if given is None:
        raise openai_errors.ApiKeyMissing
    digest = key_hash(given)
    found = api_keys.get(digest)
    # What a lookup gives away by its time is about the hash of what was given, which tells nothing
    # about other keys.
    if found is None or not hmac.compare_digest(found.hash, digest):
        raise openai_errors.ApiKeyInvalid
    if found.expires_at is not None and now >= found.expires_at:
        raise openai_errors.ApiKeyExpired
    return found
