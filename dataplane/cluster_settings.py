"""Settings about the Ray cluster of a data plane, and what crosses its nodes."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings


class ClusterSettings(BaseSettings):
    """A part of the settings of the data plane."""

    ray_address: str = Field(
        default="",
        description="Ray cluster to join (`auto`, or HOST:PORT); this machine has to be a node of it. What is deployed "
        "there outlives this process. Empty: start Ray on this machine.",
    )
    detach: bool = Field(
        default=False,
        description="End as soon as the data plane is deployed on the Ray cluster, instead of following its logs.",
    )
    engine_tls_cert: Path | None = Field(
        default=None,
        description="PEM file, on each node, with the certificate chain of the engine replicas there; read again when "
        "it is replaced. The ingress then speaks TLS to them.",
    )
    engine_tls_key: Path | None = Field(default=None, description="PEM file with its key, without a password.")
    engine_tls_ca: Path | None = Field(
        default=None,
        description="PEM file, on each node, with the authorities that the ingress verifies engine replicas with.",
    )
    engine_tls_server_name: str = Field(
        default="",
        description="Name that the certificates of all engine replicas have. Empty: the address of the replica's node.",
    )

    @field_validator("ray_address")
    @classmethod
    def _is_joined_as_a_node(cls, value: str) -> str:
        if value and value != "auto" and not re.fullmatch(r"[^\s/]+:[0-9]{1,5}", value):
            raise ValueError(
                "allowed is `auto` or HOST:PORT of a Ray cluster that this machine is a node of, or nothing"
            )
        return value

    @model_validator(mode="after")
    def _something_is_left_behind(self) -> ClusterSettings:
        if self.detach and not self.ray_address:
            raise ValueError("detach needs --ray-address: a Ray that is started here ends with this process")
        return self

    @model_validator(mode="after")
    def _engine_tls_is_complete(self) -> ClusterSettings:
        given = (self.engine_tls_cert, self.engine_tls_key, self.engine_tls_ca)
        if any(given) and not all(given):
            raise ValueError(
                "engine-tls-cert, engine-tls-key and engine-tls-ca belong together: give all three or none"
            )
        if self.engine_tls_server_name and not all(given):
            raise ValueError("engine-tls-server-name needs engine-tls-cert, engine-tls-key and engine-tls-ca")
        return self
