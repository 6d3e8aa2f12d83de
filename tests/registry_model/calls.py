"""Calls of the registry's methods, and their outcomes. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tests.registry_model.values import Adapter, ApiKey, Content, Model, Route, Tag


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request for a change. Its class is named after the method."""

    request_id: str = ""
    validate_only: bool = False


@dataclass(frozen=True, kw_only=True)
class RegisterModel(Call):
    name: str
    served_name: str = ""
    team: str = ""
    canary: bool = False
    content: Content
    must_create: bool = False
    etag: Tag | None = None


@dataclass(frozen=True, kw_only=True)
class UpdateModel(Call):
    """The mask has those of the four fields that are not None."""

    name: str
    served_name: str | None = None
    team: str | None = None
    weights: int | None = None
    text: str | None = None
    etag: Tag | None = None


@dataclass(frozen=True, kw_only=True)
class RollbackModel(Call):
    name: str
    number: int
    etag: Tag | None = None


@dataclass(frozen=True, kw_only=True)
class DeleteModel(Call):
    name: str
    force: bool = False
    etag: Tag | None = None


@dataclass(frozen=True, kw_only=True)
class UndeleteModel(Call):
    name: str
    etag: Tag | None = None


@dataclass(frozen=True, kw_only=True)
class ControlRollout(Call):
    name: str
    action: str


@dataclass(frozen=True, kw_only=True)
class WarmModel(Call):
    name: str
    ends: bool = False
    etag: Tag | None = None


@dataclass(frozen=True, kw_only=True)
class RegisterAdapter(Call):
    name: str
    served_name: str = ""
    content: Content
    must_create: bool = False
    etag: Tag | None = None


@dataclass(frozen=True, kw_only=True)
class UpdateAdapter(Call):
    """The mask has those of the two fields that are not None."""

    name: str
    served_name: str | None = None
    text: str | None = None
    etag: Tag | None = None


@dataclass(frozen=True, kw_only=True)
class RollbackAdapter(Call):
    name: str
    number: int
    etag: Tag | None = None


@dataclass(frozen=True, kw_only=True)
class DeleteAdapter(Call):
    name: str
    force: bool = False
    etag: Tag | None = None


@dataclass(frozen=True, kw_only=True)
class UndeleteAdapter(Call):
    name: str
    etag: Tag | None = None


@dataclass(frozen=True, kw_only=True)
class SetRoute(Call):
    name: str
    served_name: str = ""
    targets: tuple[str, ...]
    fallbacks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DeleteRoute(Call):
    name: str


@dataclass(frozen=True, kw_only=True)
class CreateApiKey(Call):
    name: str


@dataclass(frozen=True, kw_only=True)
class RevokeApiKey(Call):
    name: str


@dataclass(frozen=True, kw_only=True)
class RollbackCatalog(Call):
    to_revision: int
    expected_revision: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The outcome of a call that was carried out."""

    catalog_revision: int
    created: bool | None = None
    """Whether a revision was made. None: the method does not tell."""
    resource: Model | Adapter | Route | ApiKey | None = None
    """The resource after the call. None: the method does not return it."""
    count: int = 0
    """Adapters that were undeleted with a model, or resources that a rollback changed."""
    rollout: str = ""
    shows_key: bool = False
    """Whether the answer has an API key."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The outcome of a call that was refused."""

    status: str
    reason: str


Outcome = Answer | Refusal


class Refused(Exception):
    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(status, reason)


def not_found(kind: str) -> Refused:
    return Refused("NotFound", f"{kind}_NOT_FOUND")
