"""Which token is sent to which endpoint, and when a connection uses TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol.addresses import host_of, is_local
from protocol.transport import local_tokens
from protocol.transport.credentials import Credentials, CredentialsError


@pytest.mark.parametrize(
    ("address", "host", "local"),
    [
        ("127.0.0.1:1", "127.0.0.1", True),
        ("127.9.9.9:1", "127.9.9.9", True),
        ("[::1]:1", "::1", True),
        ("localhost:1", "localhost", True),
        ("Localhost:1", "Localhost", True),
        ("ipv4:127.0.0.1:1", "127.0.0.1", True),
        ("ipv6:[::1]:1", "::1", True),
        ("dns:localhost:1", "localhost", True),
        ("dns:///localhost:1", "localhost", True),
        ("unix-abstract:x", "", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", "127.0.0.1:1,10.0.0.1", False),
        ("unix:/run/x", "", True),
        ("0.0.0.0:1", "0.0.0.0", False),
        ("[::]:1", "::", False),
        ("10.0.0.1:1", "10.0.0.1", False),
        ("localhost.example.org:1", "localhost.example.org", False),
    ],
)
def test_addresses(address: str, host: str, local: bool) -> None:
    assert (host_of(address), is_local(address)) == (host, local)


def leave(address: str, token: str) -> None:
    place = local_tokens.directory(address)
    assert place is not None
    place.mkdir(parents=True)
    (place / local_tokens.ADMIN).write_text(token + "\n")


def test_a_token_left_on_this_machine_is_found_and_sent_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    leave("127.0.0.1:77", "left")
    bearer = (("authorization", "Bearer left"),)
    assert Credentials().metadata("127.0.0.1:77") == bearer
    assert Credentials().metadata("localhost:77") == bearer
    assert Credentials().metadata("Localhost:77") == bearer
    assert Credentials().metadata("ipv4:127.0.0.1:77") == bearer
    assert Credentials().metadata("dns:///localhost:77") == bearer
    assert Credentials().metadata("127.0.0.1:78") == ()
    assert Credentials().metadata("127.0.0.1:77", local_tokens.DATA_PLANE) == ()
    assert Credentials().metadata("example.org:77") == ()
    assert Credentials(token="given").metadata("127.0.0.1:77") == (("authorization", "Bearer given"),)


def test_without_a_home_no_token_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    assert Credentials().metadata("127.0.0.1:77") == ()


def test_a_token_file_is_read_each_time(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("one\n")
    credentials = Credentials(token_file=file)
    assert credentials.metadata("h:1") == (("authorization", "Bearer one"),)
    file.write_text("two")
    assert credentials.metadata("h:1") == (("authorization", "Bearer two"),)
    for content in (b"", b"two words", b"\xff", b"x" * 20_000):
        file.write_bytes(content)
        with pytest.raises(CredentialsError, match="does not hold a token"):
            credentials.metadata("h:1")
    file.unlink()
    with pytest.raises(CredentialsError, match="No such file"):
        credentials.metadata("h:1")


def test_another_machine_needs_tls_unless_insecure(tmp_path: Path) -> None:
    assert not Credentials().uses_tls("127.0.0.1:1")
    assert Credentials().uses_tls("example.org:1")
    assert Credentials(tls_ca=tmp_path).uses_tls("127.0.0.1:1")
    assert not Credentials(insecure=True).uses_tls("example.org:1")
    with pytest.raises(CredentialsError, match="nowhere"):
        Credentials(tls_ca=tmp_path / "nowhere").channel_credentials("h:1")


def test_contradictory_credentials_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="not both"):
        Credentials(token="x", token_file=tmp_path)
    with pytest.raises(CredentialsError, match="belong together"):
        Credentials(tls_cert=tmp_path)


def test_a_token_is_not_in_the_repr() -> None:
    assert "hush" not in repr(Credentials(token="hush"))
