"""Signing keys that tests make."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.signing.keys import PrivateKey
from protocol.signing.signatures import Signer, Verifier


def private_key(seed: int = 1) -> PrivateKey:
    """The same key for the same seed."""
    return PrivateKey(Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big")))


def signer(*seeds: int) -> Signer:
    """Signs with the keys of these seeds."""
    return Signer([private_key(seed) for seed in seeds])


def verifier(*seeds: int) -> Verifier:
    """Trusts the keys of these seeds."""
    return Verifier([private_key(seed).public for seed in seeds])


def write_private_keys(file: Path, *seeds: int) -> Path:
    """A file with the private keys of these seeds, for its owner alone."""
    file.touch(mode=0o600)
    file.write_bytes(b"".join(private_key(seed).to_pem() for seed in seeds))
    return file


def write_public_keys(file: Path, *seeds: int) -> Path:
    """A file with the public keys of these seeds."""
    file.write_bytes(b"".join(private_key(seed).public.to_pem() for seed in seeds))
    return file
