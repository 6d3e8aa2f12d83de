"""Requests and tokens per minute of API keys, by token buckets in each ingress replica. Pure.

A bucket holds the limit of one minute and fills evenly. A request is taken from its bucket on
arrival. Tokens are taken when the answer is complete, because their number is not known before: the
bucket of tokens may go below zero and then has to fill up first.

Each replica also takes from its buckets what the others report about once a second. Over time the
limit holds for all replicas together. Between two reports each replica may admit what its own
bucket holds. Reports are totals since a replica started: the first one that is seen of a replica is
a baseline, and only what it admits after that is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dataplane.snapshot.api_key import ApiKey

_MINUTE_S = 60.0

Used = tuple[int, int]
"""Requests and tokens since the replica started."""


@dataclass(slots=True)
class _Bucket:
    """`level` is its content at the time `at`. Invariant: it is at most `per_minute`."""

    what: bytes
    """As its headers call it: `requests` or `tokens`."""
    per_minute: int
    level: float
    at: float

    def fill(self, now: float, per_minute: int) -> None:
        """Bring it up to date, also with a changed limit. What was taken stays taken."""
        if now > self.at:
            gained = (now - self.at) * self.per_minute / _MINUTE_S
            self.level = min(float(self.per_minute), self.level + gained)
        self.at = now
        if per_minute != self.per_minute:
            self.level = min(self.level + per_minute - self.per_minute, float(per_minute))
            self.per_minute = per_minute

    def wait_s(self, wanted: float) -> float:
        """Seconds until it holds `wanted`; 0 if it does."""
        return max(0.0, (wanted - self.level) * _MINUTE_S / self.per_minute)

    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """OpenAI's headers for it: the limit, what is left, and when it is full."""
        full_in_s = (self.per_minute - self.level) * _MINUTE_S / self.per_minute
        return (
            (b"x-ratelimit-limit-" + self.what, b"%d" % self.per_minute),
            (b"x-ratelimit-remaining-" + self.what, b"%d" % (self.level if self.level > 0 else 0)),
            (b"x-ratelimit-reset-" + self.what, _duration(full_in_s)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limited:
    """The limit that refuses a request."""

    tokens: bool
    """Whether it is the limit of tokens; otherwise it is that of requests."""
    limit: int
    """Per minute."""
    retry_after_s: float


@dataclass(slots=True)
class _Account:
    requests: _Bucket | None = None
    tokens: _Bucket | None = None
    used_requests: int = 0
    used_tokens: int = 0


class RateLimits:
    """The buckets of one ingress replica. Times are seconds on one monotonic clock."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}
        """By uid of the key; at most one for each key of the snapshot."""
        self._others: dict[str, Mapping[str, Used]] = {}
        """The last report of each other replica that lives. Apart from the accounts: a key that is
        removed and comes back is not charged for what was reported meanwhile."""

    def admit(self, key: ApiKey, now: float) -> Limited | None:
        """Count a request and return None, or return the limit that refuses it."""
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
        """Count the tokens of an admitted request; nothing if its key was removed meanwhile."""
        account = self._accounts.get(key.uid)
        if account is None:
            return
        account.tokens = _current(account.tokens, b"tokens", key.tokens_per_minute, now)
        if account.tokens is not None:
            account.tokens.level -= tokens
            account.used_tokens += tokens

    def headers(self, key: ApiKey) -> list[tuple[bytes, bytes]]:
        """OpenAI's `x-ratelimit-*` headers for each limit of the key, as `admit` has left it."""
        account = self._accounts.get(key.uid)
        if account is None:
            return []
        requests = account.requests.headers() if account.requests is not None else ()
        return [*requests, *(account.tokens.headers() if account.tokens is not None else ())]

    def used(self) -> Mapping[str, Used]:
        """What this replica has admitted since it started, by uid of the key."""
        return {
            uid: (account.used_requests, account.used_tokens)
            for uid, account in self._accounts.items()
            if account.used_requests or account.used_tokens
        }

    def take_over(self, replica: str, used: Mapping[str, Used], keys: Mapping[str, ApiKey], now: float) -> None:
        """Take from the buckets what another replica has admitted since its last report.

        Nothing is taken for its first report: the totals in it may be of hours ago.

        Args:
            replica: The other replica.
            used: What it has admitted since it started, by uid of the key.
            keys: The current keys, by uid. Others are ignored.
            now: The current time.
        """
        before = self._others.get(replica)
        self._others[replica] = used
        if before is None:
            return
        for uid, (requests, tokens) in used.items():
            if uid not in keys:
                continue
            account = self._account(keys[uid], now)
            seen_requests, seen_tokens = before.get(uid, (0, 0))
            if account.requests is not None:
                account.requests.level -= max(0, requests - seen_requests)
            if account.tokens is not None:
                account.tokens.level -= max(0, tokens - seen_tokens)

    def forget_replicas(self, live: Iterable[str]) -> None:
        """Drop the reports of replicas that are not in `live`."""
        for replica in self._others.keys() - set(live):
            del self._others[replica]

    def forget_keys(self, gone: Iterable[str]) -> None:
        """Drop the buckets of keys that were removed, by uid."""
        for uid in gone:
            self._accounts.pop(uid, None)

    def _account(self, key: ApiKey, now: float) -> _Account:
        account = self._accounts.get(key.uid)
        if account is None:
            account = self._accounts[key.uid] = _Account()
        account.requests = _current(account.requests, b"requests", key.requests_per_minute, now)
        account.tokens = _current(account.tokens, b"tokens", key.tokens_per_minute, now)
        return account


def _current(bucket: _Bucket | None, what: bytes, per_minute: int, now: float) -> _Bucket | None:
    """The bucket filled up to now, with its limit changed if needed."""
    if per_minute == 0:
        return None
    if bucket is None:
        return _Bucket(what, per_minute, float(per_minute), now)
    bucket.fill(now, per_minute)
    return bucket


def _duration(seconds: float) -> bytes:
    """Format a duration as OpenAI does: `0s`, `120ms`, `6m0s`."""
    if seconds <= 0:
        return b"0s"
    if seconds < 1:
        return b"%dms" % math.ceil(seconds * 1000)
    minutes, whole_s = divmod(math.ceil(seconds), 60)
    return b"%dm%ds" % (minutes, whole_s) if minutes else b"%ds" % whole_s
