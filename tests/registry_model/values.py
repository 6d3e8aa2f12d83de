"""What the model of the registry holds: values that compare like what callers see. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Content:
    """What a revision of a model or adapter says. It never changes."""

    weights: int
    """Of a model: its least replicas, which stand for its spec. Of an adapter: which files."""
    text: str
    """The description in its card."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model, as a caller sees it."""

    name: str
    served_name: str
    team: str
    """Its one label."""
    canary: bool
    """Whether a new spec gets to the callers in steps."""
    number: int
    """Of its newest revision; counts from 1."""
    content: Content
    stable: int | None = None
    """While a rollout is under way: the number of the revision that has the rest of the
    requests."""
    rollout: str = ""
    """State of the last rollout. Empty: there was none."""
    is_warm: bool = False
    """Whether it is to be started though nobody asks for it. The time for that never ends here."""
    warmed_at: int = field(default=0, compare=False)
    """Catalog revision that said so; 0: it is not. It stands for the time until when, of which no
    two are the same."""
    catalog_revision: int = 0
    """That of its last change."""
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
    """Catalog revision that made it: one that is deleted and set again is another route. No caller
    is told."""
    catalog_revision: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """An API key, as a caller sees it."""

    name: str
    is_revoked: bool = False
    catalog_revision: int = 0


@dataclass(frozen=True, slots=True)
class Tag:
    """What an etag stands for: it is another one exactly when one of these is."""

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
    """What the audit log says of a catalog revision: there is one for each."""

    catalog_revision: int
    method: str
    resource: str
