"""Settings about the Ray cluster of a data plane, its ingress replicas there, and its labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

LABELS_MAX = 64
_INGRESS_REPLICAS_MAX = 64

_LABEL = re.compile(r"[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?=[^\x00,]{0,63}")
"""What Hello allows of a label."""


class IngressScaleSettings(BaseSettings):
    """A part of the settings of the data plane: how many ingress replicas it has."""

    ingress_replicas: int = Field(
        default=2, ge=1, le=_INGRESS_REPLICAS_MAX, description="Number of ingress replicas; with a maximum, the least."
    )
    ingress_replicas_max: int | None = Field(
        default=None,
        ge=1,
        le=_INGRESS_REPLICAS_MAX,
        description="Most ingress replicas: their number then follows their load. Default: it does not change.",
    )
    ingress_target_cpu: float = Field(
        default=0.6,
        ge=0.05,
        le=1,
        description="CPU cores that an ingress replica should use on average, with --ingress-replicas-max. It cannot "
        "use more than one.",
    )
    ingress_target_requests: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Requests that an ingress replica should have at engines on average, streams among them, with "
        "--ingress-replicas-max.",
    )

    @model_validator(mode="after")
    def _most_is_not_less_than_least(self) -> IngressScaleSettings:
        if self.ingress_replicas_max is not None and self.ingress_replicas_max < self.ingress_replicas:
            raise ValueError(
                f"ingress_replicas_max: got {self.ingress_replicas_max}, allowed are {self.ingress_replicas} "
                f"(--ingress-replicas) to {_INGRESS_REPLICAS_MAX}"
            )
        return self

    @property
    def ingress_range(self) -> tuple[int, int] | None:
        """The least and the most ingress replicas. None: their number does not change."""
        if self.ingress_replicas_max is None or self.ingress_replicas_max == self.ingress_replicas:
            return None
        return self.ingress_replicas, self.ingress_replicas_max


class ClusterSettings(IngressScaleSettings):
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

    labels: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        max_length=LABELS_MAX,
        description="Labels of this data plane, by which the waves of a rollout choose data planes, comma-separated: "
        "`region=eu,tier=canary`. Empty: none.",
    )

    @field_validator("labels", mode="before")
    @classmethod
    def _split_labels(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("labels")
    @classmethod
    def _are_labels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for label in value:
            if not _LABEL.fullmatch(label):
                raise ValueError(
                    f"got {label!r}, allowed is KEY=VALUE: a key of up to 63 of `a-z 0-9 . _ - /` that begins and ends "
                    "with a letter or digit, and a value of up to 63 characters"
                )
        keys = [label.partition("=")[0] for label in value]
        if len(set(keys)) < len(keys):
            raise ValueError("got a key twice, allowed is one value for each key")
        return value

    @property
    def labels_by_key(self) -> Mapping[str, str]:
        """The labels as a mapping."""
        pairs = (label.partition("=") for label in self.labels)
        return {key: value for key, _, value in pairs}

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
