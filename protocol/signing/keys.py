"""Private and public keys, their ids, and PEM. Pure.

A file holds one key or several, one PEM block after the other. Between the blocks, lines that begin
with `#` are comments. Anything else there is refused: a block that was cut off when it was copied
must not pass for a comment.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

KEYS_MAX = 16
"""Keys that sign, and keys that are trusted: two while keys rotate, and room for several control
planes that are trusted at once."""

KEY_FILE_BYTES_MAX = 64 * 1024
"""Of a file with keys. A key has about 120 bytes."""

_PRIVATE = "PRIVATE KEY"
_PUBLIC = "PUBLIC KEY"
_KEY_ID_DIGITS = 16
_BLOCK = re.compile(r"-----BEGIN (?P<label>[A-Z0-9 ]{1,40})-----\n[^-]*-----END (?P=label)-----\n?")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key."""

    raw: bytes
    """32 bytes."""

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of `raw`, as in `Signature.key_id`."""
        return hashlib.sha256(self.raw).hexdigest()[:_KEY_ID_DIGITS]

    @property
    def key(self) -> Ed25519PublicKey:
        """The key, to verify with."""
        return Ed25519PublicKey.from_public_bytes(self.raw)

    def to_pem(self) -> bytes:
        """PEM: SubjectPublicKeyInfo."""
        return self.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """An Ed25519 private key, never shown."""

    key: Ed25519PrivateKey = field(repr=False)
    """The key, to sign with."""

    @property
    def public(self) -> PublicKey:
        """What verifies its signatures."""
        return PublicKey(self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    def to_pem(self) -> bytes:
        """PEM: PKCS #8, without a password."""
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def parse_private_keys(content: bytes) -> tuple[PrivateKey, ...]:
    """The private keys in a file, in its order.

    Raises:
        ValueError: It is no such file. The message says why, and shows nothing of the keys.
    """
    keys = tuple(_private_key(number, block) for number, block in enumerate(_blocks(content, _PRIVATE), 1))
    _refuse_twice(tuple(key.public for key in keys))
    return keys


def parse_public_keys(content: bytes) -> tuple[PublicKey, ...]:
    """The public keys in a file, in its order.

    Raises:
        ValueError: It is no such file. The message says why.
    """
    keys = tuple(_public_key(number, block) for number, block in enumerate(_blocks(content, _PUBLIC), 1))
    _refuse_twice(keys)
    return keys


def _blocks(content: bytes, expected: str) -> Iterator[bytes]:
    if len(content) > KEY_FILE_BYTES_MAX:
        raise ValueError(f"got more than {KEY_FILE_BYTES_MAX} bytes; a key has about 120")
    text = content.decode("utf-8", errors="replace").replace("\r\n", "\n")
    found = list(_BLOCK.finditer(text))
    for line in _BLOCK.sub("", text).splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            raise ValueError("got text outside of complete PEM blocks; allowed are comments, lines that begin with #")
    if not 1 <= len(found) <= KEYS_MAX:
        raise ValueError(f"got {len(found)} PEM blocks; allowed are 1 to {KEYS_MAX} of {expected}")
    for number, block in enumerate(found, 1):
        if block["label"] != expected:
            raise ValueError(f"block {number}: got {block['label']}; expected is {expected}")
        yield block.group().encode("utf-8")


def _private_key(number: int, block: bytes) -> PrivateKey:
    try:
        key = load_pem_private_key(block, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # The cause could show a part of the key.
        raise ValueError(f"block {number}: not a private key in PKCS #8 form, without a password") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"block {number}: got a key of another algorithm; expected is Ed25519")
    return PrivateKey(key)


def _public_key(number: int, block: bytes) -> PublicKey:
    try:
        key = load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(f"block {number}: not a public key in SubjectPublicKeyInfo form") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError(f"block {number}: got a key of another algorithm; expected is Ed25519")
    return PublicKey(key.public_bytes(Encoding.Raw, PublicFormat.Raw))


def _refuse_twice(keys: tuple[PublicKey, ...]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key.id in seen:
            raise ValueError(f"key {key.id} is there twice")
        seen.add(key.id)
