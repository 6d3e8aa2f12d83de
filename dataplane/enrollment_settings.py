"""The setting by which a data plane gets its credential."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from dataplane.cluster_settings import ClusterSettings
from protocol.transport.home import absolute


class EnrollmentSettings(ClusterSettings):
    """A part of the settings of the data plane."""

    enrollment_token_file: Path | None = Field(
        default=None,
        description="File with a token of `broadsheet fleet enroll`, in place of a bearer token. It is exchanged once "
        "for a credential of this data plane's own, which is kept in the data directory.",
    )

    @field_validator("enrollment_token_file")
    @classmethod
    def _absolute_token_file(cls, value: Path | None) -> Path | None:
        return absolute(value) if value is not None else None
