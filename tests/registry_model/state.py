"""The state of the model of the registry, and the checks that several methods share. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tests.registry_model.calls import Answer, Call, Refused, RegisterAdapter, RegisterModel, not_found
from tests.registry_model.values import Adapter, ApiKey, Content, Entry, Event, Model, Route, Tag, tag_of

R = TypeVar("R", Model, Adapter)


@dataclass
class Registry:
    """Everything that the registry holds."""

    models: dict[str, Model] = field(default_factory=dict)
    """Deleted models too: they keep their names and free their served names."""
    adapters: dict[str, Adapter] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    revocations: tuple[str, ...] = ()
    """Names of the revoked keys, in the order in which they were revoked."""
    contents: dict[str, tuple[Content, ...]] = field(default_factory=dict)
    """The contents of each model's and adapter's revisions. Revision n is at index n - 1."""
    answered: dict[str, tuple[Call, Answer]] = field(default_factory=dict)
    """The call that was carried out under each request id, and its answer."""
    snapshots: tuple[Mapping[str, Entry], ...] = ({},)
    """The snapshot of each catalog revision."""
    events: tuple[Event, ...] = ()

    @property
    def revision(self) -> int:
        """The newest catalog revision."""
        return len(self.snapshots) - 1

    @property
    def next_revision(self) -> int:
        return self.revision + 1

    def copy(self) -> Registry:
        return replace(
            self,
            models=dict(self.models),
            adapters=dict(self.adapters),
            routes=dict(self.routes),
            api_keys=dict(self.api_keys),
            contents=dict(self.contents),
            answered=dict(self.answered),
        )

    def commit(self, method: str, resource: str) -> None:
        self.events = (*self.events, Event(self.next_revision, method, resource))
        self.snapshots = (*self.snapshots, self._entries())

    def _entries(self) -> Mapping[str, Entry]:
        """The entries of the snapshot: live resources, and the revisions that routes pin."""
        entries: dict[str, Entry] = {}
        for model in self.live(self.models):
            served = model.stable or model.number
            candidate = (model.number, model.content) if model.stable else None
            entries[model.name] = (
                model.served_name,
                model.team,
                served,
                self.contents[model.name][served - 1],
                candidate,
                model.warmed_at,
            )
        for adapter in self.live(self.adapters):
            entries[adapter.name] = (adapter.served_name, adapter.number, adapter.content)
        for route in self.routes.values():
            entries[route.name] = (route.served_name, route.number, route.targets, route.fallbacks, route.made_at)
            for reference in (*route.targets, *route.fallbacks):
                name, _, number = reference.partition("/revisions/")
                if number:
                    entries[reference] = (int(number), self.contents[name][int(number) - 1])
        for key in self.api_keys.values():
            entries[key.name] = (key.is_revoked,)
        return entries

    @staticmethod
    def live(resources: Mapping[str, R]) -> Iterator[R]:
        return (resource for resource in resources.values() if not resource.is_deleted)

    def live_model(self, name: str) -> Model:
        model = self.models.get(name)
        if model is None or model.is_deleted:
            raise not_found("MODEL")
        return model

    def live_adapter(self, name: str) -> Adapter:
        adapter = self.adapters.get(name)
        if adapter is None or adapter.is_deleted:
            raise not_found("ADAPTER")
        return adapter

    def check_registrable(self, current: Model | Adapter | None, call: RegisterModel | RegisterAdapter) -> None:
        if current is not None and current.is_deleted:
            raise Refused("AlreadyExists", "STILL_DELETED")
        if current is not None and call.must_create:
            raise Refused("AlreadyExists", "ALREADY_REGISTERED")
        self.check_etag(current, call.etag)

    @staticmethod
    def check_etag(current: Model | Adapter | None, etag: Tag | None) -> None:
        if etag is not None and (current is None or etag != tag_of(current)):
            raise Refused("Aborted", "ETAG_MISMATCH")

    def check_served_name(self, served_name: str, owner: str) -> None:
        holders: list[Model | Adapter | Route] = [*self.live(self.models), *self.live(self.adapters)]
        holders += self.routes.values()
        if any(holder.served_name == served_name and holder.name != owner for holder in holders):
            raise Refused("AlreadyExists", "SERVED_NAME_TAKEN")

    def deleted(self, resource: R) -> R:
        return replace(resource, is_deleted=True, catalog_revision=self.next_revision)

    def undeleted(self, resource: R) -> R:
        if not resource.is_deleted:
            raise Refused("AlreadyExists", "NOT_DELETED")
        self.check_served_name(resource.served_name, resource.name)
        return replace(resource, is_deleted=False, catalog_revision=self.next_revision)

    def is_there(self, reference: str) -> bool:
        name, _, number = reference.partition("/revisions/")
        resource = self.adapters.get(name) if "/adapters/" in name else self.models.get(name)
        if resource is None or resource.is_deleted:
            return False
        return not number or int(number) <= resource.number

    def add_content(self, name: str, content: Content) -> None:
        self.contents[name] = (*self.contents.get(name, ()), content)
