"""Signs payloads with every key, and verifies that a trusted key has signed. Pure.

A signature is over a context, a zero byte and the payload. The context keeps a signature over one
kind of payload from being shown as one over another kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from cryptography.exceptions import InvalidSignature

from broadsheet.v1 import snapshot_pb2
from protocol.signing.keys import KEYS_MAX, PrivateKey, PublicKey
from protocol.validation import shorten

SNAPSHOT_HEAD: Final = "broadsheet.v1.SnapshotHead"
"""Context of the head of a snapshot."""

REVOCATION_BATCH: Final = "broadsheet.v1.RevocationBatch"
"""Context of revocations beside snapshots."""

# Reasons of a refusal. Part of the API: operators and tests match on them.
SIGNATURE_MISSING = "SIGNATURE_MISSING"
SIGNATURE_INVALID = "SIGNATURE_INVALID"
KEY_NOT_TRUSTED = "KEY_NOT_TRUSTED"


class SignatureError(Exception):
    """No trusted key has signed this."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        """SIGNATURE_MISSING, SIGNATURE_INVALID or KEY_NOT_TRUSTED."""
        self.message = message
        """For operators. Names key ids."""


class Signer:
    """Signs with one private key or several. Immutable."""

    def __init__(self, keys: Sequence[PrivateKey]) -> None:
        """
        Args:
            keys: They all sign: two while keys rotate.
        """
        self._keys = tuple((key.public.id, key.key) for key in keys)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids of the keys."""
        return tuple(key_id for key_id, _ in self._keys)

    def sign(self, context: str, payload: bytes) -> tuple[snapshot_pb2.Signature, ...]:
        """A signature of each key, in the order of the keys.

        Args:
            context: SNAPSHOT_HEAD or REVOCATION_BATCH.
            payload: A serialised message.
        """
        signed = _signed(context, payload)
        return tuple(snapshot_pb2.Signature(key_id=key_id, signature=key.sign(signed)) for key_id, key in self._keys)


class Verifier:
    """Verifies with the public keys that are trusted. Immutable."""

    def __init__(self, keys: Iterable[PublicKey]) -> None:
        """
        Args:
            keys: A signature by one of them is enough.
        """
        self._keys = {key.id: key.key for key in keys}

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids of the trusted keys."""
        return tuple(self._keys)

    def verify(self, context: str, payload: bytes, signatures: Iterable[snapshot_pb2.Signature]) -> str:
        """Return the id of a trusted key that has signed `payload`.

        Signatures by other keys do not count, whether they are good or not.

        Args:
            context: What kind of payload it has to be: SNAPSHOT_HEAD or REVOCATION_BATCH.
            payload: The serialised message, as it was received.
            signatures: Those that came with it.

        Raises:
            SignatureError: None has; says why.
        """
        got = tuple(signatures)
        if not got:
            raise SignatureError(SIGNATURE_MISSING, f"it is not signed; trusted are {self._trusted}")
        if len(got) > KEYS_MAX:
            raise SignatureError(SIGNATURE_INVALID, f"it has {len(got)} signatures; allowed are {KEYS_MAX}")
        signed = _signed(context, payload)
        trusted = [item for item in got if item.key_id in self._keys]
        for item in trusted:
            if self._is_good(item, signed):
                return item.key_id
        if trusted:
            raise SignatureError(SIGNATURE_INVALID, f"the signature by key {_ids(trusted)} is not over this content")
        raise SignatureError(KEY_NOT_TRUSTED, f"it is signed by key {_ids(got)}; trusted are {self._trusted}")

    @property
    def _trusted(self) -> str:
        return ", ".join(self._keys) or "none"

    def _is_good(self, item: snapshot_pb2.Signature, signed: bytes) -> bool:
        try:
            self._keys[item.key_id].verify(item.signature, signed)
        except InvalidSignature:
            return False
        return True


def _signed(context: str, payload: bytes) -> bytes:
    return context.encode("ascii") + b"\0" + payload


def _ids(signatures: Iterable[snapshot_pb2.Signature]) -> str:
    return ", ".join(shorten(item.key_id) for item in signatures)
