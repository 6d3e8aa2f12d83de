"""Settings of the data plane. No other module reads flags or environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict

from dataplane.enrollment_settings import EnrollmentSettings
from protocol.addresses import host_of, is_local
from protocol.arguments import not_utf8
from protocol.engine_args import allowed_name
from protocol.names import RESOURCE_ID_PATTERN
from protocol.transport.credentials import Credentials
from protocol.transport.home import absolute

ENV_PREFIX = "BROADSHEET_DATAPLANE_"
CLI_CONFIG = SettingsConfigDict(
    env_prefix=ENV_PREFIX,
    extra="forbid",
    frozen=True,
    cli_parse_args=False,
    cli_kebab_case=True,
    cli_hide_none_type=True,
    cli_avoid_json=True,
)
"""How flags and environment variables are read, for all commands of the data plane."""
_HELD_BODY_BYTES = 512 * 1024 * 1024
_Settings = TypeVar("_Settings", bound=BaseSettings)
_ORIGIN = re.compile(
    r"(?!http://[^/]*:80$|https://[^/]*:443$)[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)
"""An origin as browsers serialise it (RFC 6454 §6.2)."""


def _default_data_dir() -> Path:
    try:
        base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    except RuntimeError:
        raise SettingsError("data_dir: this user has no home directory; give --data-dir") from None
    return Path(base) / "broadsheet" / "dataplane"


class LoadSettings(EnrollmentSettings):
    """Of the settings, those that share out what a data plane has among its callers."""

    max_body_bytes: int = Field(
        default=32 * 1024 * 1024, ge=1024, le=1024**3, description="Largest request body that is accepted, in bytes."
    )
    max_held_body_bytes: int | None = Field(
        default=None,
        ge=2048,
        le=1024**4,
        description="Bytes of the bodies of all requests in progress, for each ingress replica: at least twice the "
        "largest body. A caller may hold as many as stay free. Default: 536870912, or 4 times --max-body-bytes if that "
        "is more.",
    )

    stream_heartbeat_s: float = Field(
        default=0,
        ge=0,
        le=3600,
        description="While a stream waits for a start, for room or for its first token, send a comment at this "
        "interval, in s, so that proxies do not give up. What fails after the first comment is an error event within a "
        "200. 0: off.",
    )
    max_concurrent_starts: int = Field(
        default=16,
        ge=1,
        le=10_000,
        description="Models at zero that start at the same time because of requests; further ones wait for their turn. "
        "Models with min_replicas of 1 or more, and those that are warmed, do not count and do not wait.",
    )
    max_concurrent_starts_per_caller: int = Field(
        default=8,
        ge=1,
        le=10_000,
        description="The same for one caller: an API key or, without one, an address.",
    )

    @model_validator(mode="after")
    def _largest_body_can_be_held(self) -> LoadSettings:
        if self.held_body_bytes_max < 2 * self.max_body_bytes:
            raise ValueError(
                f"max_held_body_bytes: got {self.max_held_body_bytes}, allowed are {2 * self.max_body_bytes} (twice "
                "--max-body-bytes) and more"
            )
        return self

    @property
    def held_body_bytes_max(self) -> int:
        """Bytes of request bodies that an ingress replica may hold."""
        if self.max_held_body_bytes is not None:
            return self.max_held_body_bytes
        return max(_HELD_BODY_BYTES, 4 * self.max_body_bytes)


class Settings(LoadSettings):
    """Every setting of the data plane.

    A flag takes precedence over its `BROADSHEET_DATAPLANE_*` environment variable.
    """

    model_config = SettingsConfigDict(**CLI_CONFIG, cli_prog_name="broadsheet dataplane", cli_implicit_flags=True)

    controlplane: str = Field(
        default="127.0.0.1:8300", description="Address of the control plane: HOST:PORT.", pattern=r"^\S+:\d{1,5}$"
    )
    controlplane_token: SecretStr = Field(
        default=SecretStr(""), description="Bearer token for the control plane. Prefer a file."
    )
    controlplane_token_file: Path | None = Field(
        default=None,
        description="File with the bearer token; read again for each connection. Without either: the token that a "
        "control plane on this machine wrote for this user.",
    )
    controlplane_tls_ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities that the control plane is verified with. Empty: gRPC's own.",
    )
    controlplane_tls_cert: Path | None = Field(default=None, description="PEM file with a client certificate (mTLS).")
    controlplane_tls_key: Path | None = Field(default=None, description="PEM file with its key.")
    trusted_keys: Path | None = Field(
        default=None,
        description="PEM file with the public keys of control planes; read again when it changes. With it, only "
        "snapshots that one of them has signed are taken.",
    )
    controlplane_insecure: bool = Field(
        default=False, description="Connect to a control plane on another machine without TLS."
    )
    http: str = Field(
        default="127.0.0.1:8000",
        description="Address that the OpenAI API listens on: HOST:PORT.",
        pattern=r"^\S+:\d{1,5}$",
    )
    http_tls_cert: Path | None = Field(
        default=None, description="PEM file with the certificate chain for HTTPS; read again when it is replaced."
    )
    http_tls_key: Path | None = Field(default=None, description="PEM file with its key, without a password.")
    insecure: bool = Field(
        default=False,
        description="Listen beyond this machine without HTTPS, and without API keys while the catalog has none.",
    )
    require_api_key: bool = Field(
        default=False,
        description="Require an API key even while the catalog has none. When listening beyond this machine, that is "
        "the case anyway unless --insecure is given.",
    )
    data_plane_id: str = Field(
        default="local", description="Id of this data plane in the fleet.", pattern=f"^{RESOURCE_ID_PATTERN}$"
    )
    data_dir: Path = Field(
        default_factory=_default_data_dir,
        description="Directory of the last-known-good snapshot and of verified adapters.",
    )
    allowed_sources: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("file:///", "hf://"),
        description="Source URIs that models and adapters may have, as comma-separated prefixes.",
    )
    allowed_engine_args: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Engine arguments that run code, read files or reach other hosts and that publishers may set, "
        "comma-separated (`trust_remote_code,speculative_config.model`); `*`: all. Empty: none.",
    )
    allow_new_store: bool = Field(
        default=False,
        description="Accept snapshots of another store than the one served so far: after the control plane's database "
        "was restored from a backup or replaced. Give it once, and leave it out at the next start.",
    )
    max_header_bytes: int = Field(
        default=64 * 1024, ge=1024, le=1024**2, description="Largest total size of a request's headers, in bytes."
    )
    head_read_timeout_s: float = Field(
        default=30.0, ge=1, le=3600, description="How long a caller may take to send a request's headers, in s."
    )
    max_connections: int = Field(
        default=8192, ge=1, le=1024**2, description="Open connections of each ingress replica, of all callers."
    )
    max_connections_per_address: int = Field(
        default=2048,
        ge=1,
        le=1024**2,
        description="Open connections of each ingress replica from one address (IPv6: one /64). Behind a proxy, all "
        "callers have the proxy's address.",
    )
    body_read_timeout_s: float = Field(
        default=120.0, ge=1, le=3600, description="How long a caller may take to send a request body, in s."
    )
    request_timeout_s: float = Field(
        default=600.0,
        ge=1,
        le=86400,
        description="Longest time in which an engine may send nothing, before and within its answer, in s. The request "
        "then ends with an error. An answer that is not streamed sends nothing until it is complete.",
    )
    cors_allow_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Origins whose web pages may call the OpenAI API from a browser, comma-separated "
        "(`https://chat.example.com`); `*`: all. Empty: none.",
    )
    cors_allow_credentials: bool = Field(
        default=False,
        description="Allow those pages to send cookies and client certificates, which a proxy in front may need. Not "
        "possible with `*`.",
    )
    drain_s: float = Field(
        default=120.0, ge=0, le=3600, description="How long a replica that stops may keep answering its requests, in s."
    )
    engine_liveness_timeout_s: float = Field(
        default=60.0,
        ge=1,
        le=3600,
        description="How long an engine may leave a liveness check unanswered, in s. It is then killed and started "
        "again. An engine answers between two steps, so every step has to be shorter.",
    )
    failure_backoff_s: float = Field(
        default=10.0,
        ge=0.1,
        le=3600,
        description="Wait after the first failed start of a model, in s; it doubles with each further one.",
    )
    failure_backoff_max_s: float = Field(
        default=300.0,
        ge=0.1,
        le=86400,
        description="Longest wait between two starts of a model that fails to start, in s.",
    )

    @field_validator("allowed_sources", "allowed_engine_args", "cors_allow_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("allowed_engine_args")
    @classmethod
    def _are_engine_args(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(allowed_name(name) for name in value)

    @field_validator("cors_allow_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"got {origin!r}, allowed is `*`, or what browsers send as `Origin`: SCHEME://HOST or "
                    "SCHEME://HOST:PORT in lower case, without a path or a default port"
                )
        if "*" in value and len(value) > 1:
            raise ValueError("`*` allows every origin: name it alone, or leave it out")
        return value

    @model_validator(mode="after")
    def _credentials_go_to_named_origins(self) -> Settings:
        if self.cors_allow_credentials and (not self.cors_allow_origins or "*" in self.cors_allow_origins):
            raise ValueError("cors-allow-credentials needs --cors-allow-origins that names origins, and not `*`")
        return self

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return absolute(value)

    @field_validator("controlplane", "http")
    @classmethod
    def _valid_port(cls, value: str) -> str:
        port = int(value.rpartition(":")[2])
        if not 1 <= port <= 65535:
            raise ValueError(f"got port {port}, allowed is 1 to 65535")
        return value

    @model_validator(mode="after")
    def _loopback_unless_insecure(self) -> Settings:
        if not self.insecure and self.http_tls_cert is None and not is_local(self.http):
            raise ValueError(
                f"http: got {self.http}, which others can reach, without HTTPS; give --http-tls-cert and "
                "--http-tls-key, use 127.0.0.1, or give --insecure"
            )
        return self

    @field_validator(
        "controlplane_token_file",
        "trusted_keys",
        "controlplane_tls_ca",
        "controlplane_tls_cert",
        "controlplane_tls_key",
        "http_tls_cert",
        "http_tls_key",
        "engine_tls_cert",
        "engine_tls_key",
        "engine_tls_ca",
    )
    @classmethod
    def _absolute_if_given(cls, value: Path | None) -> Path | None:
        return absolute(value) if value is not None else None

    @model_validator(mode="after")
    def _https_is_complete(self) -> Settings:
        if (self.http_tls_cert is None) != (self.http_tls_key is None):
            raise ValueError("http-tls-cert and http-tls-key belong together: give both or neither")
        return self

    @model_validator(mode="after")
    def _credentials_fit(self) -> Settings:
        credentials = self.credentials
        if self.enrollment_token_file is not None and (credentials.token or credentials.token_file is not None):
            raise ValueError("enrollment-token-file stands in place of a controlplane-token or its file: give one")
        return self

    @property
    def credentials(self) -> Credentials:
        """What identifies this data plane to the control plane, and how it is verified."""
        return Credentials(
            token=self.controlplane_token.get_secret_value(),
            token_file=self.controlplane_token_file,
            tls_ca=self.controlplane_tls_ca,
            tls_cert=self.controlplane_tls_cert,
            tls_key=self.controlplane_tls_key,
            insecure=self.controlplane_insecure,
        )

    @property
    def api_key_required(self) -> bool:
        """Whether an API key is required even while the catalog has none."""
        return self.require_api_key or not (self.insecure or is_local(self.http))

    @property
    def http_url(self) -> str:
        """URL of the OpenAI API."""
        return f"{'http' if self.http_tls_cert is None else 'https'}://{self.http}"

    @property
    def http_host(self) -> str:
        """Host part of `http`, without the brackets of an IPv6 address."""
        return host_of(self.http)

    @property
    def http_port(self) -> int:
        """Port part of `http`."""
        return int(self.http.rpartition(":")[2])


class SettingsError(Exception):
    """A flag or environment variable has a value that is not allowed.

    The message names it, its value, and what is allowed.
    """


def parse(argv: Sequence[str]) -> Settings:
    """Settings from flags and environment.

    Raises:
        SettingsError: a value is not allowed, or an environment variable with the prefix is
            unknown.
        SystemExit: after `--help` (0), or for an unknown flag (2).
    """
    known = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name not in known)
    if unknown:
        raise SettingsError(f"unknown environment variable {unknown[0]}; known are {', '.join(sorted(known))}")
    return parsed(Settings, argv)


def parsed(kind: type[_Settings], argv: Sequence[str]) -> _Settings:
    """The settings of the data plane, or those of a command about it.

    Raises:
        SettingsError: a value is not allowed.
        SystemExit: after `--help` (0), or for an unknown flag (2).
    """
    if (fault := not_utf8(argv, os.environ, ENV_PREFIX)) is not None:
        raise SettingsError(f"{fault} is not UTF-8")
    try:
        return CliApp.run(kind, cli_args=list(argv))
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(details) for details in error.errors())) from None


def _describe(details: ErrorDetails) -> str:
    path = ".".join(str(part) for part in details["loc"])
    message = details["msg"].removeprefix("Value error, ")
    if not path:
        return message
    return f"{path}: got {details['input']!r}: {message}"
