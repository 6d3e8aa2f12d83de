"""Keys that control planes sign with, and that data planes trust."""

from __future__ import annotations

import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane.push.head_signing import HeadSigner
from dataplane.sync.trusted_keys import TrustedKeys
from protocol.signing.heads import verify_head
from protocol.signing.keys import PrivateKey
from protocol.signing.signatures import SignatureError, Signer, Verifier
from protocol.transport.key_files import KeyFiles


@functools.cache
def _key(seed: int) -> PrivateKey:
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32))


def _signer(*, trusted: bool) -> Signer:
    return Signer([_key(1 if trusted else 2)])


_VERIFIER = Verifier([_key(1).public])


def _files(read: Any) -> KeyFiles[Any]:
    """In the place of files that never change."""
    return cast("KeyFiles[Any]", SimpleNamespace(read=lambda: read, changed=lambda: None))


def head_signer(*, signs: bool) -> HeadSigner:
    """What a control plane signs heads with, if it signs."""
    return HeadSigner(_files(_signer(trusted=True)) if signs else None)


def change_key(heads: HeadSigner, *, trusted: bool) -> None:
    """Let it sign with another key from now on: somebody else's, or the right one again."""
    if heads.signer is not None:
        heads.signer = _signer(trusted=trusted)
        heads._signed.clear()


def trusted_keys(*, verifies: bool) -> TrustedKeys:
    """What a data plane trusts, if it asks for signatures."""
    keys = TrustedKeys(None, Path("/nowhere/SIGNED_HEAD"))
    if verifies:
        keys._keys = _files(_VERIFIER)
    return keys


def is_vouched_for(intent: pb.Intent) -> bool:
    """Whether the trusted key has signed what is announced."""
    try:
        verify_head(_VERIFIER, intent.signed_head.SerializeToString(), intent.to, intent.entry_count)
    except SignatureError:
        return False
    return True
