"""The environment of Ray and the engines, and what has to be in order before Ray is started."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

from dataplane.launch.errors import LaunchRefused
from dataplane.settings import Settings
from protocol.transport.key_files import KeyFilesError, read_verifier
from protocol.transport.tls_files import AuthoritiesFile, TlsFiles, TlsFilesError

LOOPBACK_RAY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment of everything that starts or joins a Ray on loopback.

Without it, Ray takes the loopback address for a mistake, uses that of the machine's network, and
listens on all of them."""
RAY_TOKEN_FILE = "ray_auth_token"  # noqa: S105  # the name of a file
"""File in the data directory with the token that admits a process to the Ray that was started here
(`RAY_AUTH_TOKEN_PATH`)."""

_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    # Ray copies the logs of all replicas to stderr: keep every line, and no colors.
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
}


def prepare_environment() -> None:
    """Set environment variables for Ray and the engines. Those that are set already are kept."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)


def prepare_own_ray(data_dir: Path) -> None:
    """Keep the Ray that is started here on loopback, and make it require a token.

    Raises:
        LaunchRefused: The data directory cannot be written.
    """
    os.environ.update(LOOPBACK_RAY)
    try:
        _protect_own_ray(data_dir / RAY_TOKEN_FILE)
    except OSError as error:
        raise LaunchRefused(f"data_dir: got {data_dir}, which cannot be written: {error.strerror}") from error


def check_certificates(settings: Settings) -> None:
    """Check that the TLS files and the trusted keys on this machine can be used.

    Raises:
        LaunchRefused: One cannot be.
    """
    try:
        if settings.http_tls_cert is not None and settings.http_tls_key is not None:
            TlsFiles(settings.http_tls_cert, settings.http_tls_key).read()
        if settings.engine_tls_cert is not None and settings.engine_tls_key is not None:
            TlsFiles(settings.engine_tls_cert, settings.engine_tls_key).read()
        if settings.engine_tls_ca is not None:
            AuthoritiesFile(settings.engine_tls_ca).read()
        if settings.trusted_keys is not None:
            read_verifier(settings.trusted_keys)
    except (TlsFilesError, KeyFilesError) as error:
        raise LaunchRefused(str(error)) from error


def check_port(settings: Settings) -> None:
    """Check that the HTTP address is free.

    Raises:
        LaunchRefused: It is not.
    """
    family = socket.AF_INET6 if ":" in settings.http_host else socket.AF_INET
    # The probe does not set SO_REUSEPORT. It would then not notice other listeners.
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.http_host, settings.http_port))
        except OSError as error:
            raise LaunchRefused(f"cannot listen on {settings.http}: {error.strerror or error}") from error


def _protect_own_ray(token_file: Path) -> None:
    """Make the Ray that is started here require a token, unless the operator has configured that.

    A caller of Ray can run code, and other users of this machine reach it. Ray's default token is a
    file in the home directory that every user can read.
    """
    if "RAY_AUTH_MODE" in os.environ:
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    if not token_file.exists():
        token_file.parent.mkdir(parents=True, exist_ok=True)
        scratch = token_file.with_suffix(".tmp")
        scratch.unlink(missing_ok=True)
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        scratch.rename(token_file)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token_file)
