"""The entry of an API key, with its served-name patterns compiled. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from broadsheet.v1 import api_key_pb2
from protocol.api_keys import pattern_of
from protocol.names import SERVED_NAME_CHARACTERS_MAX

_EVERYTHING = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key that is not revoked."""

    name: str
    """`apiKeys/{api_key}`."""
    uid: str
    """Differs for a key that was deleted and created again under the same name."""
    hash: bytes = field(repr=False)
    patterns: tuple[str, ...]
    """Patterns of served names, sorted: keys with equal patterns share cached model lists."""
    requests_per_minute: int
    """0: unlimited."""
    tokens_per_minute: int
    """0: unlimited."""
    expires_at: float | None
    """Seconds since the epoch; None: never."""
    _allowed: re.Pattern[str] = field(repr=False, compare=False)

    @classmethod
    def of(cls, entry: api_key_pb2.ApiKeyEntry) -> ApiKey:
        """Convert an entry that `accept` has checked."""
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
        """Whether the key may call every served name."""
        return _EVERYTHING in self.patterns

    def may_use(self, served_name: str) -> bool:
        """Whether the key may see and call a served name. A longer text is matched with nothing."""
        return len(served_name) <= SERVED_NAME_CHARACTERS_MAX and self._allowed.match(served_name) is not None
