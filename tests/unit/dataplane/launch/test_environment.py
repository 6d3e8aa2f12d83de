"""What stands against a launch is found before Ray is asked."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dataplane.launch.environment import check_certificates, check_port
from dataplane.launch.errors import LaunchRefused
from dataplane.settings import parse
from tests.certificates import Authority


def test_an_http_address_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        http = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(LaunchRefused, match=rf"cannot listen on {http}: Address already in use"):
            check_port(parse(["--http", http]))
    check_port(parse(["--http", http]))


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
