"""Key files: what is read as a key, and what is refused."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from protocol.signing.keys import KEY_FILE_BYTES_MAX, KEYS_MAX, parse_private_keys, parse_public_keys
from tests.signing import private_key


def test_keys_are_the_same_after_a_file() -> None:
    key = private_key()
    assert parse_private_keys(key.to_pem())[0].public == key.public
    assert parse_public_keys(key.public.to_pem()) == (key.public,)


def test_a_key_id_is_the_start_of_the_hash_of_the_raw_key() -> None:
    public = private_key().public
    assert public.id == hashlib.sha256(public.raw).hexdigest()[:16]


def test_a_private_key_is_not_shown() -> None:
    assert "Ed25519PrivateKey" not in repr(private_key())


def test_a_file_may_have_several_keys_comments_and_windows_line_ends() -> None:
    content = b"# old\n" + private_key(1).public.to_pem() + b"\n# new\n" + private_key(2).public.to_pem()
    expected = (private_key(1).public, private_key(2).public)
    assert parse_public_keys(content) == expected
    assert parse_public_keys(content.replace(b"\n", b"\r\n")) == expected


def _rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


PUBLIC = private_key().public.to_pem()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got 0 PEM blocks"),
        (b"# none\n", "got 0 PEM blocks"),
        (PUBLIC[:-30], "outside of complete PEM blocks"),
        (PUBLIC + PUBLIC[:60], "outside of complete PEM blocks"),
        (PUBLIC + b"key\n", "outside of complete PEM blocks"),
        (PUBLIC.replace(b"M", b"N", 1), "block 1: not a public key"),
        (b"-----BEGIN PUBLIC KEY-----\n\n-----END PUBLIC KEY-----\n", "block 1: not a public key"),
        (PUBLIC * 2, "is there twice"),
        (b"".join(private_key(seed).public.to_pem() for seed in range(1, KEYS_MAX + 2)), f"got {KEYS_MAX + 1} PEM"),
        (b"#" * (KEY_FILE_BYTES_MAX + 1), f"more than {KEY_FILE_BYTES_MAX} bytes"),
        (private_key().to_pem(), "got PRIVATE KEY; expected is PUBLIC KEY"),
        (
            _rsa().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "another algorithm; expected is Ed25519",
        ),
        (b"\xff\xfe\x00", "outside of complete PEM blocks"),
    ],
)
def test_what_is_no_file_of_public_keys_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_public_keys(content)


def _encrypted() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PUBLIC, "got PUBLIC KEY; expected is PRIVATE KEY"),
        (_encrypted(), "got ENCRYPTED PRIVATE KEY"),
        (_rsa().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "expected is Ed25519"),
        (private_key().to_pem().replace(b"MC4C", b"MC4D"), "block 1: not a private key"),
        (private_key().to_pem() * 2, "is there twice"),
    ],
)
def test_what_is_no_file_of_private_keys_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_private_keys(content)


def test_an_error_shows_nothing_of_a_private_key() -> None:
    content = private_key(7).to_pem().replace(b"MC4C", b"MC4D")
    with pytest.raises(ValueError, match="block 1") as raised:
        parse_private_keys(content)
    secret = content.splitlines()[1].decode()
    assert secret[8:24] not in str(raised.value)
    assert raised.value.__suppress_context__
