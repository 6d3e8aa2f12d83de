"""What stands against a launch is found before Ray is asked."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dataplane.launch.environment import LOOPBACK_RAY, check_certificates, check_port, prepare_own_ray
from dataplane.launch.errors import LaunchRefused
from dataplane.settings import parse
from tests.certificates import Authority


def test_an_http_address_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        http = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(LaunchRefused, match=rf"cannot listen on {http}: Address already in use"):
            check_port(parse(["--http", http]))
    check_port(parse(["--http", http]))


def test_a_data_directory_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", *LOOPBACK_RAY):
        monkeypatch.setenv(name, "")  # so that it is restored whatever the code under test sets
        monkeypatch.delenv(name)
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchRefused, match=f"data_dir: got {tmp_path}/file/data, which cannot be written: Not a dir"):
        prepare_own_ray(tmp_path / "file" / "data")


@pytest.mark.parametrize("which", ["--engine-tls-cert", "--engine-tls-key", "--engine-tls-ca", "--http-tls-key"])
def test_tls_files_that_cannot_be_used_are_refused(which: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue()
    given = {
        "--engine-tls-cert": files.cert,
        "--engine-tls-key": files.key,
        "--engine-tls-ca": authority.file,
        "--http-tls-cert": files.cert,
        "--http-tls-key": files.key,
    }
    check_certificates(parse([word for flag, file in given.items() for word in (flag, str(file))]))
    broken = tmp_path / "broken.pem"
    broken.write_text("nothing\n")
    given[which] = broken
    with pytest.raises(LaunchRefused, match=r"broken\.pem"):
        check_certificates(parse([word for flag, file in given.items() for word in (flag, str(file))]))
