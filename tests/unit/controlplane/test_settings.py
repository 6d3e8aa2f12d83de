"""Settings from flags and environment, and errors that are a single line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controlplane import __main__ as program
from controlplane import backup_command, errors, settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_defaults_are_local(tmp_path: Path) -> None:
    loaded = settings.load()
    assert loaded.listen == "127.0.0.1:8300"
    assert loaded.data_dir == tmp_path / "broadsheet" / "controlplane"
    assert loaded.store_url == f"sqlite+aiosqlite:///{tmp_path}/broadsheet/controlplane/registry.db"
    assert loaded.adapter_bytes_max == 2 * 1024**3


def test_flags_have_precedence_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROADSHEET_CONTROLPLANE_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("BROADSHEET_CONTROLPLANE_ALLOWED_SOURCES", "file:///a, file:///b")
    assert settings.load().listen == "127.0.0.1:1"
    assert settings.load(["--listen", "127.0.0.1:2"]).listen == "127.0.0.1:2"
    assert settings.load().allowed_sources == ("file:///a", "file:///b")


def test_engine_arguments_are_left_to_the_data_planes_by_default() -> None:
    assert settings.load([]).allowed_engine_args == ("*",)
    assert settings.load(["--allowed-engine-args", ""]).allowed_engine_args == ()
    assert settings.load(["--allowed-engine-args", "trust-remote-code"]).allowed_engine_args == ("trust_remote_code",)


def test_a_relative_data_directory_is_made_absolute() -> None:
    assert settings.load(["--data-dir", "x"]).data_dir == Path("x").absolute()


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "127.1.2.3:1", "[::1]:8300", "localhost:1", "unix:/run/x.sock"])
def test_local_addresses_need_no_flag(listen: str) -> None:
    assert settings.load(["--listen", listen]).listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:8300", "[::]:8300", "10.0.0.1:1", "example.org:1"])
def test_listening_beyond_this_machine_needs_tls_or_insecure(listen: str) -> None:
    with pytest.raises(errors.SetupError, match="without TLS"):
        settings.load(["--listen", listen])
    assert settings.load(["--listen", listen, "--insecure"]).listen == listen
    assert settings.load(["--listen", listen, "--tls-cert", "c", "--tls-key", "k"]).listen == listen


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--listen", "nowhere"], "listen"),
        (["--listen", "127.0.0.1:70000"], "65535"),
        (["--drain-s", "-1"], "drain-s: got '-1'"),
        (["--drain-s", "soon"], "drain-s: got 'soon'"),
        (["--log-format", "xml"], "'console' or 'json'"),
        (["--allowed-sources", "s3://x"], "file:///"),
        (["--no-such-flag"], "no-such-flag"),
        (["--listen"], "expected one argument"),
        (["--database-url", "mysql+aiomysql://u:secret@h/d"], "postgresql"),
        (["--database-url", "postgresql+asyncpg://u:secret@h"], "must name a database"),
        (["--database-connections-max", "3"], "greater than or equal to 4"),
        (["--database-url", "sqlite+aiosqlite://"], "file"),
        (["--database-url", "sqlite+aiosqlite:///:memory:"], "file"),
        (["--database-url", "nonsense"], "not a URL"),
        (["--oidc-issuer", "https://i"], "belong together"),
        (["--tls-cert", "cert.pem"], "tls-cert and tls-key belong together"),
        (["--tls-client-ca", "ca.pem"], "tls-client-ca needs tls-cert"),
        (["--certificate-roles", "gpu-1=viewer:x"], "NAME=data-plane:ID"),
        (["--certificate-roles", "gpu-1=data-plane:"], "NAME=data-plane:ID"),
        (["--certificate-roles", "gpu-1=data-plane:GPU 1"], "NAME=data-plane:ID"),
        (["--certificate-roles", "gpu-1=viewer"], "certificate-roles needs tls-client-ca"),
        (["--oidc-roles", "admins=king"], "viewer, publisher, operator, admin, data-plane"),
        (["--oidc-jwks", "http://elsewhere/keys"], "https://"),
    ],
)
def test_an_invalid_setting_is_a_line_and_status_2(
    argv: list[str], match: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(argv) == 2
    error = capsys.readouterr().err
    assert match in error
    assert error.startswith("broadsheet controlplane: ")
    assert error.count("\n") == 1
    assert "secret" not in error


def test_an_unknown_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROADSHEET_CONTROLPLANE_LISTN", "x")
    with pytest.raises(errors.SetupError, match="BROADSHEET_CONTROLPLANE_LISTN"):
        settings.load()


def test_without_a_home_the_data_directory_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(errors.SetupError, match="no home directory; give --data-dir"):
        settings.load([])
    assert str(settings.load(["--data-dir", "/data"]).data_dir) == "/data"


def test_a_tilde_in_a_path_is_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    oidc = ["--oidc-issuer", "i", "--oidc-audience", "a", "--oidc-jwks", "~/keys.json"]
    loaded = settings.load(["--data-dir", "~/x", "--tokens-file", "~/tokens.yaml", *oidc])
    found = (loaded.data_dir, loaded.tokens_file, loaded.oidc_jwks)
    assert [str(path) for path in found] == ["/home/ada/x", "/home/ada/tokens.yaml", "/home/ada/keys.json"]


def test_a_tilde_without_a_home_is_refused_with_the_name_of_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with pytest.raises(errors.SetupError, match=r"data-dir.*~/x.*that home directory is not known"):
        settings.load(["--data-dir", "~/x"])
    with pytest.raises(errors.SetupError, match=r"^FILE: got ~/b: that home directory is not known"):
        backup_command.run("backup", ["~/b", "--data-dir", "/data"])


def test_what_is_not_utf8_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = os.fsdecode(b"/data/\xff")
    with pytest.raises(errors.SetupError, match=r"^argument 1 \(--data-dir\) is not UTF-8$"):
        settings.load([f"--data-dir={broken}"])
    with pytest.raises(errors.SetupError, match=r"^argument 1 is not UTF-8$"):
        backup_command.run("backup", [broken, "--data-dir", "/data"])
    monkeypatch.setenv("BROADSHEET_CONTROLPLANE_DATA_DIR", broken)
    with pytest.raises(
        errors.SetupError, match=r"^environment variable BROADSHEET_CONTROLPLANE_DATA_DIR is not UTF-8$"
    ):
        settings.load([])


def test_signing_keys_are_in_the_data_directory_unless_given(tmp_path: Path) -> None:
    assert settings.load(["--data-dir", "/data"]).signing_keys_path == Path("/data/signing-keys")
    assert settings.load(["--signing-keys", "/keys"]).signing_keys_path == Path("/keys")
    assert settings.load([]).sign
    assert not settings.load(["--no-sign"]).sign
    with pytest.raises(errors.SetupError, match="exclude each other"):
        settings.load(["--no-sign", "--signing-keys", "/keys"])
