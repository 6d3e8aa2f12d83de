"""The root digest of a snapshot, which makes it content-addressed. Pure.

A snapshot is a set of entries; an entry is the triple (name, type, digest of its blob). The root
digest must be cheap to maintain when one entry of a hundred thousand changes, so it is an
incremental hash of the set: every triple is hashed to a 4096-bit number, and the numbers are added
modulo 2**4096. Adding or removing an entry is one addition.

This is AdHash of Bellare and Micciancio, "A New Paradigm for Collision-Free Hashing: Incrementality
at Reduced Cost" (EUROCRYPT 1997). Wagner's generalised birthday attack (CRYPTO 2002) finds
collisions with work of about 2 ** (2 * sqrt(bits)), which for 4096 bits is 2**128: as hard as
a collision of SHA-256.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

_STATE_BYTES = 512
_MODULUS_MASK = (1 << (8 * _STATE_BYTES)) - 1
_DOMAIN = b"broadsheet.catalog.v1\0"


def blob_digest(blob: bytes) -> bytes:
    """SHA-256 of a blob: 32 bytes."""
    return hashlib.sha256(blob).digest()


def _element(name: str, type_: str, digest: bytes) -> int:
    # Every part is length-prefixed, so that no two triples have the same encoding.
    encoded = b"".join(
        len(part).to_bytes(4, "big") + part for part in (name.encode("utf-8"), type_.encode("utf-8"), digest)
    )
    return int.from_bytes(hashlib.shake_256(_DOMAIN + encoded).digest(_STATE_BYTES), "big")


@dataclass(frozen=True, slots=True)
class CatalogDigest:
    """State of the incremental hash. Immutable: `added` and `removed` return a new one.

    Invariant: `value` is the sum of the elements of the set, modulo 2**4096, and `entry_count`
    their number.
    """

    value: int = 0
    entry_count: int = 0

    def added(self, name: str, type_: str, digest: bytes) -> CatalogDigest:
        """The state with one more entry. The caller ensures that its name is not in the set."""
        return CatalogDigest((self.value + _element(name, type_, digest)) & _MODULUS_MASK, self.entry_count + 1)

    def removed(self, name: str, type_: str, digest: bytes) -> CatalogDigest:
        """The state without one entry. The caller ensures that the set has exactly that entry."""
        return CatalogDigest((self.value - _element(name, type_, digest)) & _MODULUS_MASK, self.entry_count - 1)

    def root(self) -> bytes:
        """The root digest: 32 bytes."""
        return hashlib.sha256(_DOMAIN + self.entry_count.to_bytes(8, "big") + self.to_bytes()).digest()

    def to_bytes(self) -> bytes:
        """The sum as 512 bytes, for storage."""
        return self.value.to_bytes(_STATE_BYTES, "big")

    @classmethod
    def from_bytes(cls, state: bytes, entry_count: int) -> CatalogDigest:
        """The inverse of `to_bytes`.

        Raises:
            ValueError: `state` is not 512 bytes long, or `entry_count` is negative.
        """
        if len(state) != _STATE_BYTES:
            raise ValueError(f"catalog digest state: got {len(state)} bytes, expected {_STATE_BYTES}")
        if entry_count < 0:
            raise ValueError(f"catalog digest entry count: got {entry_count}, expected 0 or more")
        return cls(int.from_bytes(state, "big"), entry_count)
