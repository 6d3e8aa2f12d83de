"""Settings of the control plane, from flags and environment. No other module reads either."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict, SettingsError

from controlplane import errors
from controlplane.access.permissions import Role
from controlplane.principal import Principal
from controlplane.store.databases import database
from controlplane.store.databases import postgres as store_postgres
from controlplane.store.databases import sqlite as store_sqlite
from controlplane.store.retention import SNAPSHOTS_MIN, Retention
from protocol import sources
from protocol.addresses import UNIX, is_local
from protocol.arguments import not_utf8
from protocol.engine_args import ALL, allowed_name
from protocol.names import RESOURCE_ID_PATTERN
from protocol.transport.home import absolute

ENV_PREFIX = "BROADSHEET_CONTROLPLANE_"

_SECRET = frozenset({"database_url"})
"""May contain a password, so an error message does not show the value."""


def _default_data_dir() -> Path:
    try:
        base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    except RuntimeError:
        raise errors.SetupError("data_dir: this user has no home directory; give --data-dir") from None
    return Path(base) / "broadsheet" / "controlplane"


class SigningSettings(BaseSettings):
    """Of the settings, those of the keys that sign snapshots."""

    data_dir: Path = Field(
        default_factory=_default_data_dir, description="Directory of the database, of tokens and of signing keys."
    )
    signing_keys: Path | None = Field(
        default=None,
        description="PEM file with private keys, or directory with such files *.pem, which all sign the heads of "
        "snapshots; read again when it changes. Default: `signing-keys` in the data directory, where the first start "
        "makes one.",
    )
    sign: bool = Field(default=True, description="Sign the heads of snapshots.")

    @field_validator("data_dir", "signing_keys")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return absolute(value) if value is not None else None

    @model_validator(mode="after")
    def _keys_are_used(self) -> SigningSettings:
        if self.signing_keys is not None and not self.sign:
            raise ValueError("signing-keys and no-sign exclude each other: give one of them or neither")
        return self

    @property
    def signing_keys_path(self) -> Path:
        """Where the private keys are, or are made."""
        return self.signing_keys or self.data_dir / "signing-keys"


class Settings(SigningSettings):
    """All settings of the control plane.

    Flags have precedence over `BROADSHEET_CONTROLPLANE_*` environment variables.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="forbid",
        frozen=True,
        cli_parse_args=False,
        cli_kebab_case=True,
        cli_prog_name="broadsheet controlplane",
        cli_implicit_flags=True,
        cli_exit_on_error=False,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    listen: str = Field(
        default="127.0.0.1:8300",
        description="Where the gRPC API listens: HOST:PORT, or unix:/path. Port 0: any free port.",
        pattern=r"^(\S+:\d{1,5}|unix:/\S+)$",
    )
    metrics_listen: str = Field(
        default="", pattern=r"^(\S+:\d{1,5})?$", description="Prometheus reads metrics at HOST:PORT. Default: nowhere."
    )
    insecure: bool = Field(
        default=False,
        description="Listen beyond this machine without TLS: anybody on the network path can read tokens and data.",
    )
    database_url: str = Field(
        default="",
        description="Database of the registry: postgresql+asyncpg://user:password@host/database for several control "
        "planes, or sqlite+aiosqlite:///path. Empty: SQLite in the data directory.",
    )
    database_connections_max: int = Field(
        default=store_postgres.CONNECTIONS_MAX,
        ge=store_postgres.CONNECTIONS_MIN,
        le=1000,
        description="Connections to PostgreSQL, half of them for writes. Another one listens for notifications.",
    )
    retain_snapshots: int = Field(
        default=1000,
        ge=SNAPSHOTS_MIN,
        description="How many of the newest snapshots are kept, whatever their age.",
    )
    retain_days: float = Field(default=30.0, ge=0, le=36500, description="How long all snapshots are kept, in days.")
    audit_retention_days: int = Field(
        default=365, ge=0, le=36_500, description="How long audit events are kept, in days. 0: forever."
    )
    deleted_retention_days: float = Field(
        default=30.0,
        ge=0,
        le=3660,
        description="How long a deleted model or adapter can be undeleted, in days. Then it is purged.",
    )
    drain_s: float = Field(
        default=10.0, ge=0, le=3600, description="How long RPCs may continue after a signal to stop, in seconds."
    )
    message_bytes_max: int = Field(
        default=4 * 1024 * 1024,
        ge=1024 * 1024,
        le=256 * 1024 * 1024,
        description="Largest message that is accepted, in bytes.",
    )
    streams_max: int = Field(
        default=1000, ge=1, le=100_000, description="Concurrent RPCs of a connection; more of them wait."
    )
    connections_max: int = Field(
        default=2048, ge=1, le=1_000_000, description="Open connections of all clients; more are closed at once."
    )
    adapter_bytes_max: int = Field(
        default=2 * 1024**3, ge=1, description="Largest adapter that is accepted: bytes of all its files."
    )
    allowed_sources: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Directories that adapters may be in, as comma-separated file:/// URIs. Empty: any.",
    )
    allowed_engine_args: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(ALL,),
        description="Engine arguments that run code, read files or reach other hosts and that publishers may set, "
        "comma-separated. `*`: all, and each data plane decides by its own setting. Empty: none.",
    )
    tls_cert: Path | None = Field(
        default=None, description="PEM file with the certificate chain to listen with TLS; read again when replaced."
    )
    tls_key: Path | None = Field(default=None, description="PEM file with its key, without a password.")
    tls_client_ca: Path | None = Field(
        default=None,
        description="PEM file with authorities of client certificates (mTLS). With it, clients need a certificate.",
    )
    certificate_roles: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Roles by subject alternative name of client certificates, as comma-separated NAME=ROLE, or "
        "NAME=data-plane:ID for a single data plane.",
    )
    tokens_file: Path | None = Field(
        default=None,
        description="YAML file with the hashes of bearer tokens and the role of each; read again when it changes. "
        "Without it and without OIDC: tokens are generated at the first start, in the data directory.",
    )
    allow_unbound_data_planes: bool = Field(
        default=False,
        description="Let credentials that name no data plane speak for every data plane that has none of its own. "
        "On an address of this machine they always may.",
    )
    oidc_issuer: str = Field(default="", description="Issuer (`iss`) whose JWTs are accepted. Empty: none.")
    oidc_audience: str = Field(default="", description="Audience (`aud`) that the JWTs must have.")
    oidc_jwks: str = Field(default="", description="The issuer's keys: an https:// URL, or a file.")
    oidc_role_claim: str = Field(
        default="roles", min_length=1, description="Claim with the roles; a dot leads into an object."
    )
    oidc_roles: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Roles by values of the role claim, as comma-separated VALUE=ROLE. Empty: the values are role "
        "names.",
    )
    log_format: Literal["console", "json"] = Field(default="console", description="How logs are written.")

    @field_validator("allowed_sources", "allowed_engine_args", "certificate_roles", "oidc_roles", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("allowed_sources")
    @classmethod
    def _are_files(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in value:
            sources.file_path(prefix)
        return value

    @field_validator("allowed_engine_args")
    @classmethod
    def _are_engine_args(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(allowed_name(name) for name in value)

    @field_validator("oidc_roles")
    @classmethod
    def _are_roles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pair in value:
            claimed, _, role = pair.rpartition("=")
            if not claimed or role not in set(Role):
                raise ValueError(f"got {pair!r}; expected VALUE=ROLE, where ROLE is one of {', '.join(Role)}")
        return value

    @field_validator("oidc_jwks")
    @classmethod
    def _cannot_be_replaced_on_the_way(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme and not (url.scheme == "https" or (url.scheme == "http" and is_local(f"{url.hostname}:0"))):
            raise ValueError("keys over plain http:// could be replaced on the way: use https://, or a file")
        return str(absolute(Path(value))) if value and not url.scheme else value

    @field_validator("certificate_roles")
    @classmethod
    def _name_roles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pair in value:
            name, _, granted = pair.rpartition("=")
            role, colon, data_plane = granted.partition(":")
            is_bound = role == Role.DATA_PLANE and re.fullmatch(RESOURCE_ID_PATTERN, data_plane) is not None
            if not name or role not in set(Role) or (colon and not is_bound):
                raise ValueError(
                    f"got {pair!r}; expected NAME=ROLE, where ROLE is one of {', '.join(Role)}, or NAME=data-plane:ID"
                )
        return value

    @field_validator("tokens_file", "tls_cert", "tls_key", "tls_client_ca")
    @classmethod
    def _absolute_if_given(cls, value: Path | None) -> Path | None:
        return absolute(value) if value is not None else None

    @field_validator("listen", "metrics_listen")
    @classmethod
    def _valid_port(cls, value: str) -> str:
        if value and not value.startswith(UNIX) and int(value.rpartition(":")[2]) > 65535:
            raise ValueError(f"got {value}; ports go up to 65535")
        return value

    @field_validator("database_url")
    @classmethod
    def _supported(cls, value: str) -> str:
        if value:
            try:
                database.parse_url(value)
            except errors.SetupError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _oidc_is_complete(self) -> Settings:
        given = (self.oidc_issuer, self.oidc_audience, self.oidc_jwks)
        if any(given) and not all(given):
            raise ValueError("oidc-issuer, oidc-audience and oidc-jwks belong together: set all three or none")
        return self

    @model_validator(mode="after")
    def _tls_is_complete(self) -> Settings:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls-cert and tls-key belong together: set both or neither")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls-client-ca needs tls-cert and tls-key")
        if self.certificate_roles and self.tls_client_ca is None:
            raise ValueError("certificate-roles needs tls-client-ca: without it no client has a certificate")
        return self

    @model_validator(mode="after")
    def _local_unless_insecure(self) -> Settings:
        if self.tls_cert is None and not self.insecure and not is_local(self.listen):
            raise ValueError(
                f"listen: got {self.listen}, which others can reach, without TLS; set --tls-cert and --tls-key, use "
                "127.0.0.1, or set --insecure"
            )
        return self

    @property
    def certificate_principals(self) -> Mapping[str, Principal]:
        """Principals by subject alternative name of client certificates."""
        granted = {name: role for name, _, role in (pair.rpartition("=") for pair in self.certificate_roles)}
        return {
            name: Principal(
                name=name,
                role=Role(role.partition(":")[0]),
                authentication="mtls",
                data_plane=role.partition(":")[2],
            )
            for name, role in granted.items()
        }

    @property
    def oidc_role_values(self) -> Mapping[str, Role]:
        """Roles by values of the role claim."""
        return {pair.rpartition("=")[0]: Role(pair.rpartition("=")[2]) for pair in self.oidc_roles}

    @property
    def retention(self) -> Retention:
        """Which snapshots are kept."""
        return Retention(snapshots=self.retain_snapshots, age=timedelta(days=self.retain_days))

    @property
    def store_url(self) -> str:
        """URL of the database."""
        return self.database_url or store_sqlite.database_url(self.data_dir / "registry.db")


def load(argv: Sequence[str] = ()) -> Settings:
    """Settings from flags and environment.

    Raises:
        errors.SetupError: a setting is missing, unknown or invalid. The text is a single line.
        SystemExit: after `--help`.
    """
    if (fault := not_utf8(argv, os.environ, ENV_PREFIX)) is not None:
        raise errors.SetupError(f"{fault} is not UTF-8")
    unknown = sorted(
        name for name in os.environ if name.startswith(ENV_PREFIX) and name not in _environment_variables()
    )
    if unknown:
        raise errors.SetupError(f"{unknown[0]}: no such setting; see --help")
    try:
        return CliApp.run(Settings, cli_args=list(argv))
    except ValidationError as error:
        raise errors.SetupError("; ".join(_line(details) for details in error.errors())) from None
    except SettingsError as error:
        raise errors.SetupError(str(error).partition("\n")[0]) from None


def _environment_variables() -> frozenset[str]:
    return frozenset(f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields)


def _line(details: ErrorDetails) -> str:
    where = ".".join(str(part) for part in details["loc"])
    message = details["msg"].removeprefix("Value error, ")
    if not where or where in _SECRET:
        return message
    return f"{where.replace('_', '-')}: got {details['input']!r}: {message}"
