"""What the registry promises, as a model of it that fits into one's head. Pure.

A `Registry` is a value: `after` says what a call of a method answers, and which registry there is
then. Nothing here knows of databases, transactions or other callers; that calls of many at the same
time, some of them cut off, can be explained by this model one after the other is what
`tests/contract/test_registry_states.py` shows. `after_all` is the question that it asks.

Left out: purging, retention, ranks of adapters, and what is wrong with a request whatever the
registry holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

# --- what the registry holds ----------------------------------------------------------------------


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


R = TypeVar("R", Model, Adapter)


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
"""What a snapshot says of one name. Equal exactly when the bytes in the snapshot are."""


@dataclass(frozen=True, slots=True)
class Event:
    """What the audit log says of a catalog revision: there is one for each."""

    catalog_revision: int
    method: str
    resource: str


# --- calls of its methods, and what they answer ---------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request that may change something. Its class is named after the method."""

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
    """Of the four fields, those that are not None are in the mask."""

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
    """Of the two fields, those that are not None are in the mask."""

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
    """That of a call that was carried out."""

    catalog_revision: int
    created: bool | None = None
    """Whether a revision was made, where the method says so."""
    resource: Model | Adapter | Route | ApiKey | None = None
    """As it is now, where the method says so."""
    count: int = 0
    """Adapters that came back with a model; resources that a rollback changed."""
    rollout: str = ""
    shows_key: bool = False
    """Whether an API key is in it."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """That of a call that changed nothing."""

    status: str
    reason: str


Outcome = Answer | Refusal


class _Refused(Exception):
    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.refusal = Refusal(status, reason)


def _not_found(kind: str) -> _Refused:
    return _Refused("NotFound", f"{kind}_NOT_FOUND")


# --- what calls do --------------------------------------------------------------------------------


@dataclass
class Registry:
    """All that the registry holds."""

    models: dict[str, Model] = field(default_factory=dict)
    """Deleted ones too: a deleted resource keeps its name and frees its served name."""
    adapters: dict[str, Adapter] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    api_keys: dict[str, ApiKey] = field(default_factory=dict)
    contents: dict[str, tuple[Content, ...]] = field(default_factory=dict)
    """The revisions of each model and adapter. That of number n is at n - 1."""
    answered: dict[str, tuple[Call, Answer]] = field(default_factory=dict)
    """What was carried out under a request id."""
    snapshots: tuple[Mapping[str, Entry], ...] = ({},)
    """That of each catalog revision."""
    events: tuple[Event, ...] = ()

    @property
    def revision(self) -> int:
        """The newest catalog revision."""
        return len(self.snapshots) - 1

    @property
    def _next(self) -> int:
        return self.revision + 1

    def after(self, call: Call) -> tuple[Registry, Outcome]:
        """What `call` is answered, and the registry afterwards. This one stays as it is."""
        if call.request_id in self.answered:
            first, answer = self.answered[call.request_id]
            if first == call:
                # A key is shown once, and kept nowhere.
                return self, replace(answer, shows_key=False)
            return self, Refusal("InvalidArgument", "REQUEST_ID_REUSED")
        changed = self._copy()
        try:
            answer = getattr(changed, f"_{type(call).__name__}")(call)
        except _Refused as refused:
            return self, refused.refusal
        if call.validate_only:
            return self, replace(answer, shows_key=False)
        if call.request_id:
            changed.answered[call.request_id] = (call, answer)
        if answer.catalog_revision == changed._next:
            resource = (
                f"snapshots/{call.to_revision}" if isinstance(call, RollbackCatalog) else getattr(call, "name", "")
            )
            changed._commit(type(call).__name__, resource)
        return changed, answer

    def after_rollouts_advance(self) -> Registry:
        """The registry when every data plane has reported every candidate healthy for long
        enough."""
        changed = self._copy()
        for model in sorted(self.models.values(), key=lambda model: model.name):
            if model.rollout == "RUNNING" and not model.is_deleted:
                changed.models[model.name] = replace(
                    model, rollout="COMPLETE", stable=None, catalog_revision=changed._next
                )
                changed._commit("AdvanceRollout", model.name)
        return changed

    def _copy(self) -> Registry:
        return replace(
            self,
            models=dict(self.models),
            adapters=dict(self.adapters),
            routes=dict(self.routes),
            api_keys=dict(self.api_keys),
            contents=dict(self.contents),
            answered=dict(self.answered),
        )

    def _commit(self, method: str, resource: str) -> None:
        self.events = (*self.events, Event(self._next, method, resource))
        self.snapshots = (*self.snapshots, self._entries())

    def _entries(self) -> Mapping[str, Entry]:
        """What a data plane is told: what is not deleted, and the revisions that routes pin."""
        entries: dict[str, Entry] = {}
        for model in self._live(self.models):
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
        for adapter in self._live(self.adapters):
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
    def _live(resources: Mapping[str, R]) -> Iterator[R]:
        return (resource for resource in resources.values() if not resource.is_deleted)

    def _live_model(self, name: str) -> Model:
        model = self.models.get(name)
        if model is None or model.is_deleted:
            raise _not_found("MODEL")
        return model

    def _live_adapter(self, name: str) -> Adapter:
        adapter = self.adapters.get(name)
        if adapter is None or adapter.is_deleted:
            raise _not_found("ADAPTER")
        return adapter

    def _check_registrable(self, current: Model | Adapter | None, call: RegisterModel | RegisterAdapter) -> None:
        if current is not None and current.is_deleted:
            raise _Refused("AlreadyExists", "STILL_DELETED")
        if current is not None and call.must_create:
            raise _Refused("AlreadyExists", "ALREADY_REGISTERED")
        self._check_etag(current, call.etag)

    @staticmethod
    def _check_etag(current: Model | Adapter | None, etag: Tag | None) -> None:
        if etag is not None and (current is None or etag != tag_of(current)):
            raise _Refused("Aborted", "ETAG_MISMATCH")

    def _check_served_name(self, served_name: str, owner: str) -> None:
        holders: list[Model | Adapter | Route] = [*self._live(self.models), *self._live(self.adapters)]
        holders += self.routes.values()
        if any(holder.served_name == served_name and holder.name != owner for holder in holders):
            raise _Refused("AlreadyExists", "SERVED_NAME_TAKEN")

    # Models.

    def _RegisterModel(self, call: RegisterModel) -> Answer:
        current = self.models.get(call.name)
        self._check_registrable(current, call)
        return self._write_model(
            current,
            Model(
                name=call.name,
                served_name=call.served_name or call.name.removeprefix("models/"),
                team=call.team,
                canary=call.canary,
                number=current.number if current else 0,
                content=call.content,
                stable=current.stable if current else None,
                rollout=current.rollout if current else "",
                is_warm=current.is_warm if current else False,
                warmed_at=current.warmed_at if current else 0,
            ),
        )

    def _UpdateModel(self, call: UpdateModel) -> Answer:
        current = self._live_model(call.name)
        self._check_etag(current, call.etag)
        wanted = replace(
            current,
            content=Content(
                call.weights if call.weights is not None else current.content.weights,
                call.text if call.text is not None else current.content.text,
            ),
            team=call.team if call.team is not None else current.team,
        )
        if call.served_name is not None:
            wanted = replace(wanted, served_name=call.served_name or call.name.removeprefix("models/"))
        return self._write_model(current, wanted)

    def _RollbackModel(self, call: RollbackModel) -> Answer:
        current = self._live_model(call.name)
        self._check_etag(current, call.etag)
        if call.number > current.number:
            raise _not_found("REVISION")
        return self._write_model(
            current, replace(current, content=self.contents[call.name][call.number - 1]), at_once=True
        )

    def _write_model(self, current: Model | None, wanted: Model, *, at_once: bool = False) -> Answer:
        changed = self._changed_model(current, wanted, at_once=at_once)
        if changed is current:
            return Answer(catalog_revision=self.revision, created=False, resource=changed)
        self._check_served_name(changed.served_name, changed.name)
        self.models[changed.name] = changed
        created = current is None or current.number != changed.number
        return Answer(catalog_revision=self._next, created=created, resource=changed)

    def _changed_model(self, current: Model | None, wanted: Model, *, at_once: bool) -> Model:
        """`wanted`, which has the number of `current`, as it becomes: `current` itself when nothing
        changes.

        A new content makes a new revision. A new spec under a canary policy shares the requests
        with the stable revision; `at_once` puts it in place whatever the policy says, and ends a
        rollout under way.
        """
        if current is not None and wanted.content == current.content:
            ends_rollout = at_once and current.stable is not None
            if replace(wanted, catalog_revision=current.catalog_revision) == current and not ends_rollout:
                return current
            if at_once:
                wanted = replace(wanted, stable=None, rollout="")
            return replace(wanted, catalog_revision=self._next)
        self._add_content(wanted.name, wanted.content)
        changed = replace(wanted, number=wanted.number + 1, catalog_revision=self._next, stable=None, rollout="")
        if current is None or at_once:
            return changed
        stable = current.stable or current.number
        same_spec = self.contents[wanted.name][stable - 1].weights == wanted.content.weights
        if wanted.canary and not same_spec:
            return replace(changed, stable=stable, rollout="RUNNING")
        return changed

    def _add_content(self, name: str, content: Content) -> None:
        self.contents[name] = (*self.contents.get(name, ()), content)

    def _DeleteModel(self, call: DeleteModel) -> Answer:
        current = self._live_model(call.name)
        self._check_etag(current, call.etag)
        own = [adapter for adapter in self._live(self.adapters) if adapter.base == call.name]
        if own and not call.force:
            raise _Refused("FailedPrecondition", "MODEL_HAS_ADAPTERS")
        self._release_from_routes(call.name, force=call.force)
        for adapter in own:
            self.adapters[adapter.name] = self._deleted(adapter)
        self.models[call.name] = self._deleted(current)
        return Answer(catalog_revision=self._next, resource=self.models[call.name])

    def _deleted(self, resource: R) -> R:
        return replace(resource, is_deleted=True, catalog_revision=self._next)

    def _undeleted(self, resource: R) -> R:
        if not resource.is_deleted:
            raise _Refused("AlreadyExists", "NOT_DELETED")
        self._check_served_name(resource.served_name, resource.name)
        return replace(resource, is_deleted=False, catalog_revision=self._next)

    def _UndeleteModel(self, call: UndeleteModel) -> Answer:
        current = self.models.get(call.name)
        if current is None:
            raise _not_found("MODEL")
        self._check_etag(current, call.etag)
        self.models[call.name] = self._undeleted(current)
        # Those that the same change deleted come back.
        together = [
            adapter
            for adapter in self.adapters.values()
            if adapter.base == call.name and adapter.is_deleted and adapter.catalog_revision == current.catalog_revision
        ]
        for adapter in together:
            self.adapters[adapter.name] = self._undeleted(adapter)
        return Answer(catalog_revision=self._next, resource=self.models[call.name], count=len(together))

    def _ControlRollout(self, call: ControlRollout) -> Answer:
        current = self._live_model(call.name)
        allowed = {"PAUSE": ("RUNNING",), "RESUME": ("PAUSED",), "ABORT": ("RUNNING", "PAUSED")}
        if current.stable is None or current.rollout not in allowed[call.action]:
            raise _Refused("FailedPrecondition", "ROLLOUT_NOT_IN_STATE")
        changed = replace(current, catalog_revision=self._next)
        if call.action == "ABORT":
            stable = self.contents[call.name][current.stable - 1]
            self._add_content(call.name, stable)
            changed = replace(changed, number=current.number + 1, content=stable, stable=None, rollout="REVERTED")
        else:
            changed = replace(changed, rollout="PAUSED" if call.action == "PAUSE" else "RUNNING")
        self.models[call.name] = changed
        return Answer(catalog_revision=self._next, rollout=changed.rollout)

    def _WarmModel(self, call: WarmModel) -> Answer:
        current = self._live_model(call.name)
        self._check_etag(current, call.etag)
        self.models[call.name] = changed = self._warmed(current, 0 if call.ends else self._next)
        return Answer(catalog_revision=self.revision if changed is current else self._next, resource=changed)

    def _warmed(self, model: Model, warmed_at: int) -> Model:
        if model.warmed_at == warmed_at:
            return model
        return replace(model, is_warm=warmed_at > 0, warmed_at=warmed_at, catalog_revision=self._next)

    # Adapters.

    def _RegisterAdapter(self, call: RegisterAdapter) -> Answer:
        self._live_model(call.name.partition("/adapters/")[0])
        current = self.adapters.get(call.name)
        self._check_registrable(current, call)
        return self._write_adapter(
            current,
            Adapter(
                name=call.name,
                served_name=call.served_name or self._default_served_name(call.name),
                number=current.number if current else 0,
                content=call.content,
            ),
        )

    def _default_served_name(self, name: str) -> str:
        base, _, adapter_id = name.partition("/adapters/")
        return f"{self.models[base].served_name}:{adapter_id}"

    def _UpdateAdapter(self, call: UpdateAdapter) -> Answer:
        current = self._live_adapter(call.name)
        self._check_etag(current, call.etag)
        wanted = current
        if call.text is not None:
            wanted = replace(wanted, content=Content(current.content.weights, call.text))
        if call.served_name is not None:
            wanted = replace(wanted, served_name=call.served_name or self._default_served_name(call.name))
        return self._write_adapter(current, wanted)

    def _RollbackAdapter(self, call: RollbackAdapter) -> Answer:
        current = self._live_adapter(call.name)
        if call.number > current.number:
            raise _not_found("REVISION")
        self._check_etag(current, call.etag)
        return self._write_adapter(current, replace(current, content=self.contents[call.name][call.number - 1]))

    def _write_adapter(self, current: Adapter | None, wanted: Adapter) -> Answer:
        changed = self._changed_adapter(current, wanted)
        if changed is current:
            return Answer(catalog_revision=self.revision, created=False, resource=changed)
        self._check_served_name(changed.served_name, changed.name)
        self.adapters[changed.name] = changed
        created = current is None or current.number != changed.number
        return Answer(catalog_revision=self._next, created=created, resource=changed)

    def _changed_adapter(self, current: Adapter | None, wanted: Adapter) -> Adapter:
        if current is not None and wanted.content == current.content:
            if replace(wanted, catalog_revision=current.catalog_revision) == current:
                return current
            return replace(wanted, catalog_revision=self._next)
        self._add_content(wanted.name, wanted.content)
        return replace(wanted, number=wanted.number + 1, catalog_revision=self._next)

    def _DeleteAdapter(self, call: DeleteAdapter) -> Answer:
        current = self._live_adapter(call.name)
        self._check_etag(current, call.etag)
        self._release_from_routes(call.name, force=call.force)
        self.adapters[call.name] = self._deleted(current)
        return Answer(catalog_revision=self._next, resource=self.adapters[call.name])

    def _UndeleteAdapter(self, call: UndeleteAdapter) -> Answer:
        current = self.adapters.get(call.name)
        if current is None:
            raise _not_found("ADAPTER")
        self._check_etag(current, call.etag)
        if current.is_deleted and self.models[current.base].is_deleted:
            raise _Refused("FailedPrecondition", "BASE_MODEL_DELETED")
        self.adapters[call.name] = self._undeleted(current)
        return Answer(catalog_revision=self._next, resource=self.adapters[call.name])

    # Routes.

    def _SetRoute(self, call: SetRoute) -> Answer:
        current = self.routes.get(call.name)
        served_name = call.served_name or call.name.removeprefix("routes/")
        route = self._changed_route(current, call.name, served_name, call.targets, call.fallbacks)
        if route is current:
            return Answer(catalog_revision=self.revision, created=False, resource=route)
        self._check_served_name(served_name, call.name)
        if not all(self._is_there(reference) for reference in (*call.targets, *call.fallbacks)):
            raise _Refused("InvalidArgument", "ROUTE_TARGET_NOT_FOUND")
        self.routes[call.name] = route
        created = current is None or current.number != route.number
        return Answer(catalog_revision=self._next, created=created, resource=route)

    def _changed_route(
        self,
        current: Route | None,
        name: str,
        served_name: str,
        targets: tuple[str, ...],
        fallbacks: tuple[str, ...],
    ) -> Route:
        if current is None:
            return Route(
                name=name,
                served_name=served_name,
                number=1,
                targets=targets,
                fallbacks=fallbacks,
                made_at=self._next,
                catalog_revision=self._next,
            )
        same_spec = (current.targets, current.fallbacks) == (targets, fallbacks)
        if same_spec and current.served_name == served_name:
            return current
        return replace(
            current,
            served_name=served_name,
            number=current.number if same_spec else current.number + 1,
            targets=targets,
            fallbacks=fallbacks,
            catalog_revision=self._next,
        )

    def _is_there(self, reference: str) -> bool:
        name, _, number = reference.partition("/revisions/")
        resource = self.adapters.get(name) if "/adapters/" in name else self.models.get(name)
        if resource is None or resource.is_deleted:
            return False
        return not number or int(number) <= resource.number

    def _release_from_routes(self, name: str, *, force: bool) -> None:
        """Take what is to be deleted out of every route: only by force, and never the last
        target."""

        def others(references: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(one for one in references if one != name and not one.startswith(f"{name}/"))

        for route in list(self.routes.values()):
            targets, fallbacks = others(route.targets), others(route.fallbacks)
            if (targets, fallbacks) == (route.targets, route.fallbacks):
                continue
            if not force:
                raise _Refused("FailedPrecondition", "REFERRED_TO_BY_ROUTES")
            if not targets:
                raise _Refused("FailedPrecondition", "ROUTE_WOULD_BE_EMPTY")
            self.routes[route.name] = self._changed_route(route, route.name, route.served_name, targets, fallbacks)

    def _DeleteRoute(self, call: DeleteRoute) -> Answer:
        if call.name not in self.routes:
            raise _not_found("ROUTE")
        del self.routes[call.name]
        return Answer(catalog_revision=self._next)

    # API keys.

    def _CreateApiKey(self, call: CreateApiKey) -> Answer:
        if call.name in self.api_keys:
            raise _Refused("AlreadyExists", "API_KEY_EXISTS")
        self.api_keys[call.name] = ApiKey(name=call.name, catalog_revision=self._next)
        return Answer(catalog_revision=self._next, resource=self.api_keys[call.name], shows_key=True)

    def _RevokeApiKey(self, call: RevokeApiKey) -> Answer:
        current = self.api_keys.get(call.name)
        if current is None:
            raise _not_found("API_KEY")
        if current.is_revoked:
            return Answer(catalog_revision=self.revision, resource=current)
        self.api_keys[call.name] = replace(current, is_revoked=True, catalog_revision=self._next)
        return Answer(catalog_revision=self._next, resource=self.api_keys[call.name])

    # The whole catalog.

    def _RollbackCatalog(self, call: RollbackCatalog) -> Answer:
        if call.expected_revision not in (None, self.revision):
            raise _Refused("Aborted", "CONCURRENT_CHANGE")
        if call.to_revision > self.revision:
            raise _not_found("REVISION")
        now, then = self.snapshots[-1], self.snapshots[call.to_revision]
        differing = [name for name in sorted({*now, *then}) if now.get(name) != then.get(name)]
        for name in differing:
            if name in then and "/revisions/" in name and not self._is_there(name):
                raise _Refused("FailedPrecondition", "PINNED_REVISION_GONE")
        changed = sum(self._put_back(name, then.get(name)) for name in differing)
        return Answer(catalog_revision=self._next if changed else self.revision, count=changed)

    def _put_back(self, name: str, entry: Entry | None) -> bool:
        """Whether the resource of this name changes. API keys do not, and pinned revisions go with
        their routes."""
        if "/revisions/" in name or name in self.api_keys:
            return False
        if name.startswith("routes/"):
            return self._put_back_route(name, entry)
        if "/adapters/" in name:
            return self._put_back_adapter(name, entry)
        return self._put_back_model(name, entry)

    def _put_back_model(self, name: str, entry: Entry | None) -> bool:
        found = self.models[name]
        if entry is None:
            self.models[name] = self._deleted(found)
            return True
        served_name, team, _, content, _, warmed_at = entry
        assert isinstance(served_name, str)
        assert isinstance(team, str)
        assert isinstance(content, Content)
        assert isinstance(warmed_at, int)
        alive = replace(found, is_deleted=False, catalog_revision=self._next) if found.is_deleted else found
        changed = self._changed_model(
            alive, replace(alive, served_name=served_name, team=team, content=content), at_once=True
        )
        self.models[name] = self._warmed(changed, warmed_at)
        return self.models[name] is not found

    def _put_back_adapter(self, name: str, entry: Entry | None) -> bool:
        found = self.adapters[name]
        if entry is None:
            self.adapters[name] = self._deleted(found)
            return True
        served_name, _, content = entry
        assert isinstance(served_name, str)
        assert isinstance(content, Content)
        alive = replace(found, is_deleted=False, catalog_revision=self._next) if found.is_deleted else found
        self.adapters[name] = self._changed_adapter(alive, replace(alive, served_name=served_name, content=content))
        return self.adapters[name] is not found

    def _put_back_route(self, name: str, entry: Entry | None) -> bool:
        if entry is None:
            del self.routes[name]
            return True
        served_name, _, targets, fallbacks, _ = entry
        assert isinstance(served_name, str)
        assert isinstance(targets, tuple)
        assert isinstance(fallbacks, tuple)
        found = self.routes.get(name)
        self.routes[name] = self._changed_route(found, name, served_name, targets, fallbacks)
        return self.routes[name] is not found


# --- calls at the same time -----------------------------------------------------------------------


def after_all(registry: Registry, calls: Sequence[tuple[Call, Outcome]]) -> Registry | None:
    """The registry after calls at the same time: some order of them explains every outcome. None:
    no order does.

    The catalog revisions in the answers give the order of those that committed; where the others
    come in between is tried out. So there is at most one registry that they can end in.
    """
    if not calls:
        return registry
    for index, (call, outcome) in enumerate(calls):
        changed, expected = registry.after(call)
        if not _same(outcome, expected):
            continue
        found = after_all(changed, (*calls[:index], *calls[index + 1 :]))
        if found is not None:
            return found
    return None


def _same(outcome: Outcome, expected: Outcome) -> bool:
    if isinstance(outcome, Refusal) and isinstance(expected, Refusal) and outcome.status == "NotFound":
        # Adapters are looked up, then their base: what is gone together may be missed in either
        # place.
        return expected.status == "NotFound"
    return outcome == expected
