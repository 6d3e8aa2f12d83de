"""What `apply` does: compares what files declare with what is registered, and makes the one the
other.

The control plane itself says what a declared resource would become (`validate_only`), so a
difference here is exactly one that a registration would make, defaults and files of adapters
included. Where it cannot be asked, because what a resource refers to is yet to be made or changed,
only the fields that the file states are compared.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from broadsheet.client import Client
from broadsheet.errors import BroadsheetError, FailedPrecondition, InvalidArgument
from broadsheet.exporting import Resource, fields_of, request_of
from broadsheet.specs.declared import Declared
from broadsheet.specs.requests import OWNER_LABEL, Request
from broadsheet.types import Adapter, Model, RegisterAdapterRequest, RegisterModelRequest
from protocol.field_changes import FieldChange, field_changes


class Action(enum.StrEnum):
    """What becomes of a resource."""

    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"
    KEEP = "keep"


class Prune(enum.Enum):
    """What that is registered, but declared nowhere, is deleted."""

    NOTHING = "nothing"
    OWN = "own"
    """What bears the owner's label: made or changed by an `apply` of the same owner."""
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is to be done to one resource."""

    action: Action
    name: str
    fields: tuple[FieldChange, ...] = ()
    """Those that change."""
    request: Request | None = None
    """What makes it. None: it is deleted or kept."""
    place: str = ""
    """File and line of its declaration."""
    is_deleted: bool = False
    """It was deleted and can be undeleted, which comes first: its name is not free yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A declared resource that the control plane would refuse."""

    place: str
    name: str
    error: BroadsheetError

    @property
    def is_of_the_file(self) -> bool:
        """Whether the file is wrong whatever is registered."""
        return isinstance(self.error, InvalidArgument)


def registered(client: Client) -> dict[str, Resource]:
    """Everything that files can declare, by resource name."""
    found: list[Resource] = [*client.list_models(), *client.list_adapters(), *client.list_routes()]
    return {resource.name: resource for resource in found}


def plan(
    client: Client, declared: Iterable[Declared], *, owner: str, prune: Prune
) -> tuple[Sequence[Step], Sequence[Problem]]:
    """What is to be done, in an order in which everything that is referred to is there; and what is
    in the way."""
    live = registered(client)
    deleted = _deleted(client)
    steps: list[Step] = []
    pending = _Pending(made=set(), changed=set())
    wanted = sorted(declared, key=lambda one: (_rank(one.name), one.name))
    names = {one.name for one in wanted}
    deletions = [name for name in live if name not in names and _is_pruned(live[name], owner, prune)]
    pending.made.update(deletions)
    problems = list(_still_needed(live, wanted, frozenset(deletions)))
    for one in wanted:
        try:
            if one.name in deleted:
                request = _labelled(one.request, owner)
                step = Step(action=Action.CREATE, name=one.name, request=request, place=one.place(), is_deleted=True)
            else:
                step = _step(client, one, live.get(one.name), owner=owner, pending=pending)
        except BroadsheetError as error:
            problems.append(Problem(place=one.place(), name=one.name, error=error))
            pending.made.add(one.name)
            continue
        if step.action is Action.CREATE:
            pending.made.add(one.name)
        elif step.action is Action.CHANGE:
            pending.changed.add(one.name)
        steps.append(step)
    deletions.sort(key=lambda name: (-_rank(name), name))
    steps += [Step(action=Action.DELETE, name=name) for name in deletions]
    return steps, problems


def carry_out(client: Client, steps: Iterable[Step], *, on_done: Callable[[Step], None]) -> None:
    """Do it, one by one.

    Raises:
        BroadsheetError: a step failed. Those before it are done, and doing all again is safe.
    """
    for step in steps:
        if step.action is Action.DELETE:
            _delete(client, step.name)
        elif step.request is not None:
            if step.is_deleted:
                _undelete(client, step.name)
            _register(client, step.request, validate_only=False)
        if step.action is not Action.KEEP:
            on_done(step)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """Resources that are otherwise when the plan has been carried out."""

    made: set[str]
    """They are not there yet, or not any more."""
    changed: set[str]


def _must_wait(request: Request, pending: _Pending) -> bool:
    """Whether what a request refers to is not yet as it has to be."""
    references = _references(request)
    if isinstance(request, RegisterAdapterRequest):
        # The base's new spec may be what lets the adapter in.
        return any(name in pending.made or name in pending.changed for name in references)
    pins_some = any("/revisions/" in name for name in references)
    return any(name in pending.made or (pins_some and name in pending.changed) for name in references)


def _step(client: Client, one: Declared, current: Resource | None, *, owner: str, pending: _Pending) -> Step:
    label = current.labels.get(OWNER_LABEL) if current is not None else None
    if _must_wait(one.request, pending):
        fields = _stated_changes(current, one.request)
        is_asked = False
    else:
        after = _register(client, _labelled(one.request, label), validate_only=True)
        before = fields_of(request_of(current)) if current is not None else {}
        fields = field_changes(before, fields_of(request_of(after)))
        is_asked = True
        if current is not None and not fields and after.revision.number != current.revision.number:
            # Other bytes in the files of an adapter.
            fields = (FieldChange(path="revision", before=current.revision.number, after=after.revision.number),)
    if current is None:
        return Step(action=Action.CREATE, name=one.name, request=_labelled(one.request, owner), place=one.place())
    if fields:
        request = _labelled(one.request, owner)
        return Step(action=Action.CHANGE, name=one.name, fields=fields, request=request, place=one.place())
    # What could not be asked about is registered all the same: that writes nothing if it is the
    # same.
    request_or_none = None if is_asked else _labelled(one.request, label)
    return Step(action=Action.KEEP, name=one.name, request=request_or_none, place=one.place())


def _still_needed(
    live: Mapping[str, Resource], wanted: Sequence[Declared], deletions: frozenset[str]
) -> Iterator[Problem]:
    """What is to be deleted, but is referred to by something that stays."""
    staying = {name: ("", request_of(resource)) for name, resource in live.items() if name not in deletions}
    staying.update({one.name: (one.place(), one.request) for one in wanted})
    for holder, (place, request) in staying.items():
        for name in _references(request):
            if name in deletions:
                message = f"{name} is not declared and would be deleted, but {holder} refers to it"
                yield Problem(place=place, name=holder, error=FailedPrecondition(message, reason="STILL_REFERRED_TO"))


def _stated_changes(current: Resource | None, request: Request) -> tuple[FieldChange, ...]:
    if current is None:
        return ()
    stated = fields_of(request)
    return field_changes(_restricted(fields_of(request_of(current)), stated), stated)


def _restricted(fields: Mapping[str, object], to: Mapping[str, object]) -> dict[str, object]:
    """`fields` without what `to` does not state: there the control plane fills in its defaults."""
    return {key: _restricted_value(value, to[key]) for key, value in fields.items() if key in to}


def _restricted_value(value: object, to: object) -> object:
    if isinstance(value, Mapping) and isinstance(to, Mapping):
        return _restricted(value, to)
    if isinstance(value, list) and isinstance(to, list) and len(value) == len(to):
        return [_restricted_value(item, stated) for item, stated in zip(value, to, strict=True)]
    return value


def _references(request: Request) -> list[str]:
    """The resources that must be there before this one."""
    if isinstance(request, RegisterModelRequest):
        return []
    if isinstance(request, RegisterAdapterRequest):
        return [request.parent]
    resources = [target.resource for target in request.spec.targets]
    resources += [fallback.resource for fallback in request.spec.fallbacks]
    # A pinned revision of a model that changes, or of its adapter, may be one that is yet to be
    # made.
    return [part for resource in resources for part in _prefixes(resource)]


def _prefixes(resource: str) -> list[str]:
    parts = resource.split("/")
    return ["/".join(parts[:length]) for length in range(2, len(parts) + 1, 2)]


def _labelled(request: Request, owner: str | None) -> Request:
    labelled = type(request)()
    labelled.CopyFrom(request)  # type: ignore[arg-type]  # of its own type
    if owner is not None:
        labelled.labels[OWNER_LABEL] = owner
    return labelled


def _register(client: Client, request: Request, *, validate_only: bool) -> Resource:
    labels = dict(request.labels)
    if isinstance(request, RegisterModelRequest):
        return client.register_model(
            request.model_id,
            spec=request.spec,
            card=request.card if request.HasField("card") else None,
            served_name=request.served_name,
            labels=labels,
            rollout_policy=request.rollout_policy if request.HasField("rollout_policy") else None,
            validate_only=validate_only,
        ).model
    if isinstance(request, RegisterAdapterRequest):
        return client.register_adapter(
            request.parent,
            request.adapter_id,
            source=request.source,
            card=request.card if request.HasField("card") else None,
            served_name=request.served_name,
            labels=labels,
            validate_only=validate_only,
        ).adapter
    return client.set_route(
        request.route_id,
        spec=request.spec,
        served_name=request.served_name,
        labels=labels,
        validate_only=validate_only,
    ).route


def _deleted(client: Client) -> frozenset[str]:
    """What was deleted and is not purged yet."""
    found: list[Model | Adapter] = [*client.list_models(show_deleted=True), *client.list_adapters(show_deleted=True)]
    return frozenset(resource.name for resource in found if resource.HasField("delete_time"))


def _undelete(client: Client, name: str) -> None:
    if "/adapters/" not in name:
        client.undelete_model(name)
    elif client.get_adapter(name).HasField("delete_time"):
        # It may have come back with its model.
        client.undelete_adapter(name)


def _delete(client: Client, name: str) -> None:
    if name.startswith("routes/"):
        client.delete_route(name)
    elif "/adapters/" in name:
        client.delete_adapter(name)
    else:
        client.delete_model(name)


def _is_pruned(resource: Resource, owner: str, prune: Prune) -> bool:
    return prune is Prune.ALL or (prune is Prune.OWN and resource.labels.get(OWNER_LABEL) == owner)


def _rank(name: str) -> int:
    """Models come before adapters, adapters before routes."""
    return 2 if name.startswith("routes/") else 1 if "/adapters/" in name else 0
