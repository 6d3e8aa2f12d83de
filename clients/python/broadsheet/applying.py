"""What `apply` does: compares declared with registered resources, and removes the difference.

The control plane says what a declared resource would become (`validate_only`). So a difference is
exactly what a registration would change, with defaults and the files of adapters. It cannot say so
while a resource that is referred to must first be created or changed; then only the fields that
the file states are compared.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from broadsheet.client import Client
from broadsheet.errors import AlreadyExists, BroadsheetError, FailedPrecondition, InvalidArgument
from broadsheet.exporting import Resource, fields_of, request_of
from broadsheet.specs.declared import Declared
from broadsheet.specs.requests import OWNER_LABEL, Request
from broadsheet.types import Adapter, Model, RegisterAdapterRequest, RegisterModelRequest
from protocol.field_changes import FieldChange, field_changes

IN_FLIGHT_MAX = 32
"""Calls at a time. The control plane commits together what arrives together."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Action(enum.StrEnum):
    """What happens to a resource."""

    CREATE = "create"
    CHANGE = "change"
    DELETE = "delete"
    KEEP = "keep"


class Prune(enum.Enum):
    """Which resources are deleted because no file declares them."""

    NOTHING = "nothing"
    OWN = "own"
    """Those with the owner's label: an `apply` of the same owner created or changed them."""
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What to do to one resource."""

    action: Action
    name: str
    fields: tuple[FieldChange, ...] = ()
    """Those that change."""
    request: Request | None = None
    """The request that registers it. None: it is deleted or kept."""
    place: str = ""
    """File and line of its declaration."""
    is_deleted: bool = False
    """It was deleted and must be undeleted first: its name is not free yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A declared resource that the control plane would reject."""

    place: str
    name: str
    error: BroadsheetError

    @property
    def is_file_wrong(self) -> bool:
        """Whether the file is wrong, whatever is registered."""
        return isinstance(self.error, InvalidArgument)


def registered(client: Client) -> dict[str, Resource]:
    """Everything that files can declare, by resource name."""
    live, _ = _found(client)
    return live


def plan(
    client: Client, declared: Iterable[Declared], *, owner: str, prune: Prune
) -> tuple[Sequence[Step], Sequence[Problem]]:
    """The steps that make the registry what is declared, and the problems that prevent them.

    The steps are in an order in which a resource exists before it is referred to.

    Args:
        client: Reads what is registered.
        declared: The resources that should exist.
        owner: Who applies: value of the label that `Prune.OWN` goes by.
        prune: Which undeclared resources are deleted.
    """
    live, deleted = _found(client)
    steps: list[Step] = []
    pending = _Pending(made=set(), changed=set())
    wanted = sorted(declared, key=lambda resource: (_rank(resource.name), resource.name))
    names = {resource.name for resource in wanted}
    deletions = [name for name in live if name not in names and _is_pruned(live[name], owner, prune)]
    pending.made.update(deletions)
    problems = list(_still_needed(live, wanted, frozenset(deletions)))

    def step_of(resource: Declared) -> Step | Problem:
        name, place = resource.name, resource.place()
        try:
            if name in deleted:
                request = _labelled(resource.request, owner)
                return Step(action=Action.CREATE, name=name, request=request, place=place, is_deleted=True)
            return _step(client, resource, live.get(name), owner=owner, pending=pending)
        except BroadsheetError as error:
            return Problem(place=place, name=name, error=error)

    for _, of_rank in itertools.groupby(wanted, key=lambda resource: _rank(resource.name)):
        # Resources of one rank do not refer to each other, so `pending` may wait until all are
        # planned.
        with _in_parallel(step_of, list(of_rank)) as running:
            outcomes = [future.result() for future in running]
        for planned in outcomes:
            if isinstance(planned, Problem):
                problems.append(planned)
                pending.made.add(planned.name)
                continue
            steps.append(planned)
            if planned.action is Action.CREATE:
                pending.made.add(planned.name)
            elif planned.action is Action.CHANGE:
                pending.changed.add(planned.name)
    deletions.sort(key=lambda name: (-_rank(name), name))
    steps += [Step(action=Action.DELETE, name=name) for name in deletions]
    return steps, problems


def carry_out(client: Client, steps: Iterable[Step], *, on_done: Callable[[Step], None]) -> None:
    """Carry out steps in their order, several at a time where they do not refer to each other.

    Args:
        client: Sends the requests.
        steps: From `plan`.
        on_done: Called after each step that changed something.

    Raises:
        BroadsheetError: A step failed. Those before it are done, and perhaps some after it;
            repeating all of them is safe.
    """

    def done(step: Step) -> None:
        if step.action is not Action.KEEP:
            on_done(step)

    for _, alike in itertools.groupby(steps, key=lambda step: (step.action is Action.DELETE, _rank(step.name))):
        for step in _carry_out_together(client, list(alike), on_done=done):
            # In their order and alone: a step may need the served name that one before it frees.
            _carry_out_one(client, step)
            done(step)


def _carry_out_together(client: Client, steps: Sequence[Step], *, on_done: Callable[[Step], None]) -> Sequence[Step]:
    """Carry out steps that do not refer to each other. Returns those to be repeated alone.

    Raises:
        BroadsheetError: A step failed, and would fail alone too.
    """
    left: list[Step] = []
    with _in_parallel(lambda step: _carry_out_one(client, step), steps) as running:
        for step, future in zip(steps, running, strict=True):
            try:
                future.result()
            except (AlreadyExists, FailedPrecondition):
                # Another step, which was under way, may have been in its way.
                left.append(step)
            else:
                on_done(step)
    return left


def _carry_out_one(client: Client, step: Step) -> None:
    if step.action is Action.DELETE:
        _delete(client, step.name)
    elif step.request is not None:
        if step.is_deleted:
            _undelete(client, step.name)
        _register(client, step.request, validate_only=False)


@contextlib.contextmanager
def _in_parallel(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[Sequence[Future[_Result]]]:
    """Call `function` with each item, IN_FLIGHT_MAX at a time, until the block ends.

    Calls that are under way then are waited for, and no others are begun.
    """
    pool = ThreadPoolExecutor(IN_FLIGHT_MAX, thread_name_prefix="apply")
    try:
        yield [pool.submit(function, item) for item in items]
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """Resources that are different once the plan is carried out."""

    made: set[str]
    """They do not exist yet, or will be deleted."""
    changed: set[str]


def _must_wait(request: Request, pending: _Pending) -> bool:
    """Whether a resource that the request refers to must first be created or changed."""
    references = _references(request)
    if isinstance(request, RegisterAdapterRequest):
        # The adapter may fit only the new spec of its base model.
        return any(name in pending.made or name in pending.changed for name in references)
    pins_some = any("/revisions/" in name for name in references)
    return any(name in pending.made or (pins_some and name in pending.changed) for name in references)


def _step(client: Client, declared: Declared, current: Resource | None, *, owner: str, pending: _Pending) -> Step:
    label = current.labels.get(OWNER_LABEL) if current is not None else None
    name, place = declared.name, declared.place()
    if _must_wait(declared.request, pending):
        fields = _stated_changes(current, declared.request)
        is_asked = False
    else:
        after = _register(client, _labelled(declared.request, label), validate_only=True)
        before = fields_of(request_of(current)) if current is not None else {}
        fields = field_changes(before, fields_of(request_of(after)))
        is_asked = True
        if current is not None and not fields and after.revision.number != current.revision.number:
            # The bytes of the adapter's files changed.
            fields = (FieldChange(path="revision", before=current.revision.number, after=after.revision.number),)
    if current is None:
        return Step(action=Action.CREATE, name=name, request=_labelled(declared.request, owner), place=place)
    if fields:
        request = _labelled(declared.request, owner)
        return Step(action=Action.CHANGE, name=name, fields=fields, request=request, place=place)
    # If the control plane could not be asked, register it anyway: an equal resource is not written.
    request_or_none = None if is_asked else _labelled(declared.request, label)
    return Step(action=Action.KEEP, name=name, request=request_or_none, place=place)


def _still_needed(
    live: Mapping[str, Resource], wanted: Sequence[Declared], deletions: frozenset[str]
) -> Iterator[Problem]:
    """Resources that would be deleted although a remaining resource refers to them."""
    staying = {name: ("", request_of(resource)) for name, resource in live.items() if name not in deletions}
    staying.update({resource.name: (resource.place(), resource.request) for resource in wanted})
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
    """`fields` without those that `to` lacks: there the control plane fills in defaults."""
    return {key: _restricted_value(value, to[key]) for key, value in fields.items() if key in to}


def _restricted_value(value: object, to: object) -> object:
    if isinstance(value, Mapping) and isinstance(to, Mapping):
        return _restricted(value, to)
    if isinstance(value, list) and isinstance(to, list) and len(value) == len(to):
        return [_restricted_value(item, stated) for item, stated in zip(value, to, strict=True)]
    return value


def _references(request: Request) -> list[str]:
    """The resources that must exist before this one."""
    if isinstance(request, RegisterModelRequest):
        return []
    if isinstance(request, RegisterAdapterRequest):
        return [request.parent]
    resources = [target.resource for target in request.spec.targets]
    resources += [fallback.resource for fallback in request.spec.fallbacks]
    # A pinned revision may be one that an earlier step creates, so its model counts too.
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


def _found(client: Client) -> tuple[dict[str, Resource], frozenset[str]]:
    """What is registered, by resource name; and what is deleted and not yet purged."""
    found: list[Model | Adapter] = [*client.list_models(show_deleted=True), *client.list_adapters(show_deleted=True)]
    deleted = frozenset(resource.name for resource in found if resource.HasField("delete_time"))
    live: list[Resource] = [*(resource for resource in found if resource.name not in deleted), *client.list_routes()]
    return {resource.name: resource for resource in live}, deleted


def _undelete(client: Client, name: str) -> None:
    if "/adapters/" not in name:
        client.undelete_model(name)
    elif client.get_adapter(name).HasField("delete_time"):
        # Undeleting its model may have restored it already.
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
