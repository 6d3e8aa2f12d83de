"""Requests and tokens per minute of API keys: token buckets, shared loosely between ingress
replicas. Pure.

A bucket holds a minute's worth, and fills evenly. Requests are taken from theirs when they come;
tokens when an answer is complete, because nobody knows before how many they are, so that bucket may
go below zero and has to fill up first.

Each replica counts for itself, and takes from its own buckets too what the others report about once
a second. So over time the limit holds for all replicas together; only in the time between two
reports each may let through what its own bucket holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dataplane.snapshot.api_key import ApiKey

_MINUTE_S = 60.0

Used = tuple[int, int]
"""Requests and tokens since a replica has started."""


@dataclass(slots=True)
class _Bucket:
    """Invariant: `level` is what it held at `at`; it never holds more than `per_minute`."""

    per_minute: int
    level: float
    at: float

    def fill(self, now: float) -> None:
        gained = max(0.0, now - self.at) * self.per_minute / _MINUTE_S
        self.level = min(float(self.per_minute), self.level + gained)
        self.at = now

    def resize(self, per_minute: int) -> None:
        """Take another limit: what was used up stays used up."""
        self.level = min(self.level + per_minute - self.per_minute, float(per_minute))
        self.per_minute = per_minute

    def wait_s(self, wanted: float) -> float:
        """How long until it holds that much; 0: it does."""
        return max(0.0, (wanted - self.level) * _MINUTE_S / self.per_minute)

    def full_in_s(self) -> float:
        return self.wait_s(float(self.per_minute))


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """A request that is over a limit."""

    tokens: bool
    """The limit of tokens; else that of requests."""
    limit: int
    """Per minute."""
    retry_after_s: float


@dataclass(slots=True)
class _Account:
    requests: _Bucket | None = None
    tokens: _Bucket | None = None
    used_requests: int = 0
    used_tokens: int = 0
    others: dict[str, Used] = field(default_factory=dict)
    """What other replicas have reported last, by replica."""


class RateLimits:
    """The buckets of one ingress replica. Times are seconds on one clock that only goes forward."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        """By uid of the key."""

    def admit(self, key: ApiKey, now: float) -> Limited | None:
        """Count a request, unless it is over a limit: then say which."""
        account = self._account(key, now)
        if account.requests is not None and account.requests.level < 1:
            return Limited(tokens=False, limit=key.requests_per_minute, retry_after_s=account.requests.wait_s(1.0))
        if account.tokens is not None and account.tokens.level < 1:
            return Limited(tokens=True, limit=key.tokens_per_minute, retry_after_s=account.tokens.wait_s(1.0))
        if account.requests is not None:
            account.requests.level -= 1
            account.used_requests += 1
        return None

    def charge_tokens(self, key: ApiKey, tokens: int, now: float) -> None:
        """Count the tokens of a request that was let in."""
        account = self._account(key, now)
        if account.tokens is not None:
            account.tokens.level -= tokens
            account.used_tokens += tokens

    def headers(self, key: ApiKey, now: float) -> list[tuple[bytes, bytes]]:
        """OpenAI's `x-ratelimit-*` headers: what is left of each limit that the key has."""
        account = self._account(key, now)
        result: list[tuple[bytes, bytes]] = []
        for what, bucket in ((b"requests", account.requests), (b"tokens", account.tokens)):
            if bucket is not None:
                result += [
                    (b"x-ratelimit-limit-" + what, str(bucket.per_minute).encode()),
                    (b"x-ratelimit-remaining-" + what, str(max(0, math.floor(bucket.level))).encode()),
                    (b"x-ratelimit-reset-" + what, _duration(bucket.full_in_s()).encode()),
                ]
        return result

    def used(self) -> Mapping[str, Used]:
        """What this replica has let through since it has started, by uid of the key; for the
        others."""
        return {
            uid: (account.used_requests, account.used_tokens)
            for uid, account in self._accounts.items()
            if account.used_requests or account.used_tokens
        }

    def take_over(self, replica: str, used: Mapping[str, Used], keys: Mapping[str, ApiKey], now: float) -> None:
        """Take what another replica has let through since its last report from the buckets here.

        Args:
            replica: The other one.
            used: What it has let through since it has started, by uid of the key.
            keys: Those that there are, by uid.
            now: The time.
        """
        for uid, (requests, tokens) in used.items():
            if uid not in keys:
                continue
            account = self._account(keys[uid], now)
            seen_requests, seen_tokens = account.others.get(replica, (0, 0))
            account.others[replica] = (requests, tokens)
            if account.requests is not None:
                account.requests.level -= max(0, requests - seen_requests)
            if account.tokens is not None:
                account.tokens.level -= max(0, tokens - seen_tokens)

    def forget_replicas(self, live: Iterable[str]) -> None:
        """Forget what replicas that are gone have reported."""
        kept = set(live)
        for account in self._accounts.values():
            for replica in account.others.keys() - kept:
                del account.others[replica]

    def forget_keys(self, live: Iterable[str]) -> None:
        """Forget keys that are no more, by uid."""
        for uid in self._accounts.keys() - set(live):
            del self._accounts[uid]

    def _account(self, key: ApiKey, now: float) -> _Account:
        account = self._accounts.setdefault(key.uid, _Account())
        account.requests = _current(account.requests, key.requests_per_minute, now)
        account.tokens = _current(account.tokens, key.tokens_per_minute, now)
        return account


def _current(bucket: _Bucket | None, per_minute: int, now: float) -> _Bucket | None:
    """The bucket as it is now, after a change of the limit too."""
    if per_minute == 0:
        return None
    if bucket is None:
        return _Bucket(per_minute, float(per_minute), now)
    bucket.fill(now)
    if bucket.per_minute != per_minute:
        bucket.resize(per_minute)
    return bucket


def _duration(seconds: float) -> str:
    """As OpenAI writes them: `0s`, `120ms`, `6m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms" if seconds > 0 else "0s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
