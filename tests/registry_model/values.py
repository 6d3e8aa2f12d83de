"""Resources as callers see them, and what stands for etags and entries. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a revision of a model or adapter. It never changes."""

    weights: int
    """Of a model: the minimum of replicas, for its spec. Of an adapter: which files."""
    text: str
    """The description in the card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model, as a caller sees it."""

    name: str
    served_name: str
    team: str
    """The value of its only label."""
    canary: bool
    """Whether a new spec is rolled out in steps."""
    number: int
    """Number of its newest revision, from 1 on."""
    content: Content
    stable: int | None = None
    """During a rollout: the number of the revision that serves the other requests."""
    rollout: str = ""
    """State of the last rollout. Empty: there was none."""
    is_warm: bool = False
    """Whether it is kept warm without requests. In this model, warming does not expire."""
    warmed_at: int = field(default=0, compare=False)
    """Catalog revision of the WarmModel call. 0: it is not warm. Stands for the unique end time."""
    catalog_revision: int = 0
    """Catalog revision of its last change."""
    is_deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter, as a caller sees it."""

    name: str
    served_name: str
    number: int
    content: Content
    catalog_revision: int = 0
    is_deleted: bool = False

    @property
    def base(self) -> str:
        return self.name.partition("/adapters/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route, as a caller sees it."""

    name: str
    served_name: str
    number: int
    targets: tuple[str, ...]
    """Resource names of models, adapters, or revisions of them."""
    fallbacks: tuple[str, ...]
    made_at: int = field(default=0, compare=False)
    """Catalog revision that created it, which callers do not see.

    A route that is deleted and set again is a different one.
    """
    catalog_revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key, as a caller sees it."""

    name: str
    is_revoked: bool = False
    catalog_revision: int = 0


@dataclass(frozen=True, slots=True)
class Tag:
    """What an etag stands for: two etags are equal exactly when their tags are."""

    name: str
    number: int
    served_name: str
    deleted_at: int
    more: tuple[object, ...] = ()


def tag_of(resource: Model | Adapter) -> Tag:
    deleted_at = resource.catalog_revision if resource.is_deleted else 0
    more = (resource.team, resource.canary) if isinstance(resource, Model) else ()
    return Tag(resource.name, resource.number, resource.served_name, deleted_at, more)


Entry = tuple[object, ...]
"""The entry of one name in a snapshot. Equal exactly when the bytes in the snapshot are."""


@dataclass(frozen=True, slots=True)
class Event:
    """The audit event of a catalog revision."""

    catalog_revision: int
    method: str
    resource: str
