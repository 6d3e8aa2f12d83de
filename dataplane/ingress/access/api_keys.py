"""Checks the API key of a request: who may call, which models, and how often."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Container, Iterable, Mapping

from dataplane.ingress.access.rate_limits import RateLimits, Used
from dataplane.openai import errors as openai_errors
from dataplane.openai.asgi import Headers
from dataplane.snapshot.activation import View
from dataplane.snapshot.api_key import ApiKey
from dataplane.snapshot.persistent.sorted_map import SortedMap
from dataplane.snapshot.revocations.revoked_keys import NOTHING_REVOKED, RevocationsPosition
from dataplane.snapshot.snapshot import Snapshot
from protocol.api_keys import key_hash

_KEY_BYTES_MAX = 1024
"""Longer values are refused without hashing them. A key has 46 bytes."""


class KeyAccess:
    """Checks keys by the snapshot, and by what was revoked since.

    One per ingress replica, used from one event loop.
    """

    def __init__(self, *, require_api_key: bool, clock: Callable[[], float]) -> None:
        """
        Args:
            require_api_key: Require a key even while the catalog has none.
            clock: Seconds since the epoch, for the expiry of keys.
        """
        self._require_api_key = require_api_key
        self._clock = clock
        self._limits = RateLimits()
        self._keys: SortedMap[bytes, ApiKey] = SortedMap()
        """Of the last view, by hash."""
        self._by_uid: dict[str, ApiKey] = {}
        """The same keys."""
        self._revoked: set[str] = set()
        """Uids. It only grows, so a request sees the newest with whatever view it began."""
        self.revocations = NOTHING_REVOKED
        """How far revocations are applied here, beside those in snapshots."""

    def authenticate(self, headers: Mapping[bytes, bytes], snapshot: Snapshot) -> ApiKey | None:
        """Return the key of a request; None if no key is required.

        Args:
            headers: Of the request, by name in lower case.
            snapshot: The one that decides.

        Raises:
            openai_errors.ApiKeyMissing, openai_errors.ApiKeyInvalid, openai_errors.ApiKeyExpired
        """
        if not self._require_api_key and not snapshot.has_api_keys:
            return None
        return find_key(snapshot.api_keys, _presented_key(headers), now=self._clock(), revoked=self._revoked)

    def revoke(self, key_uids: Iterable[str], position: RevocationsPosition) -> None:
        """Refuse these keys from now on, whatever a snapshot says of them.

        Args:
            key_uids: Uids of keys.
            position: How far revocations are applied then.
        """
        self._revoked.update(key_uids)
        self.revocations = position

    def check_name(self, key: ApiKey | None, served_name: str) -> None:
        """Refuse a name that the key may not call, as if it did not exist.

        Raises:
            openai_errors.ModelNotFound
        """
        if key is not None and not key.may_use(served_name):
            raise openai_errors.ModelNotFound(served_name)

    def count_request(self, key: ApiKey) -> Headers:
        """Count an inference request. Returns response headers with the key's remaining limits.

        Raises:
            openai_errors.RequestsLimited, openai_errors.TokensLimited
        """
        if not (key.requests_per_minute or key.tokens_per_minute):
            return []
        now = _now()
        limited = self._limits.admit(key, now)
        if limited is not None:
            error = openai_errors.TokensLimited if limited.tokens else openai_errors.RequestsLimited
            refusal = error(limited.limit, limited.retry_after_s)
            refusal.headers = tuple(self._limits.headers(key))
            raise refusal
        return self._limits.headers(key)

    def charge_tokens(self, key: ApiKey, tokens: int) -> None:
        """Count the tokens of an admitted request."""
        self._limits.charge_tokens(key, tokens, _now())

    def on_view(self, view: View) -> None:
        """Drop the counts of removed keys. A listener of the `ViewHolder`.

        It looks only at the keys that have changed.
        """
        before, self._keys = self._keys, view.snapshot.api_keys
        changed = self._keys.changed_keys(before)
        gone = {key.uid for key_hash in changed if (key := before.get(key_hash)) is not None}
        for uid in gone:
            self._by_uid.pop(uid, None)
        self._by_uid.update({key.uid: key for key_hash in changed if (key := self._keys.get(key_hash)) is not None})
        self._limits.forget_keys(gone - self._by_uid.keys())

    def used(self) -> Mapping[str, Used]:
        """What this ingress replica has admitted, for the others, by uid of the key."""
        return self._limits.used()

    def take_over(self, used_by_replica: Mapping[str, Mapping[str, Used]], live: Iterable[str]) -> None:
        """Count what other ingress replicas have admitted.

        Args:
            used_by_replica: The reports that have changed since the last call, by replica.
            live: All other replicas that exist.
        """
        now = _now()
        for replica, used in used_by_replica.items():
            self._limits.take_over(replica, used, self._by_uid, now)
        self._limits.forget_replicas(live)


def find_key(
    api_keys: Mapping[bytes, ApiKey],
    presented: str | None,
    *,
    now: float,
    revoked: Container[str] = frozenset(),
) -> ApiKey:
    """Return the API key that a caller presented.

    Args:
        api_keys: The keys of the snapshot, by hash.
        presented: The key from the request's header; None when the request has none.
        now: Seconds since the epoch.
        revoked: Uids of keys that are refused although the snapshot has them.

    Raises:
        openai_errors.ApiKeyMissing: `presented` is None.
        openai_errors.ApiKeyInvalid: The snapshot has no such key, or it is revoked.
        openai_errors.ApiKeyExpired: The key has expired.
    """
    if presented is None:
        raise openai_errors.ApiKeyMissing
    digest = key_hash(presented)
    found = api_keys.get(digest)
    # The time of the lookup depends on the hash of `presented` only, which reveals nothing about
    # other keys.
    if found is None or not hmac.compare_digest(found.hash, digest) or found.uid in revoked:
        raise openai_errors.ApiKeyInvalid
    if found.expires_at is not None and now >= found.expires_at:
        raise openai_errors.ApiKeyExpired
    return found


def _presented_key(headers: Mapping[bytes, bytes]) -> str | None:
    """Return the key in `authorization: Bearer`, or in Anthropic's `x-api-key`.

    Raises:
        openai_errors.ApiKeyInvalid: The value cannot be a key.
    """
    value = headers.get(b"authorization")
    if value is None:
        value = headers.get(b"x-api-key")
        if value is None:
            return None
    else:
        kind, _, value = value.strip().partition(b" ")
        if kind.lower() != b"bearer":
            raise openai_errors.ApiKeyInvalid
    value = value.strip()
    if not value:
        return None
    if len(value) > _KEY_BYTES_MAX or not value.isascii():
        raise openai_errors.ApiKeyInvalid
    return value.decode()


def _now() -> float:
    """Seconds on the event loop's clock, which is monotonic."""
    return asyncio.get_running_loop().time()
