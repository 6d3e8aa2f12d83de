"""How registrations change models and adapters, and what they may not change. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf import message as protobuf_message

from broadsheet.v1 import adapter_pb2, model_pb2, rollout_pb2
from controlplane import errors
from controlplane.catalog import domain, rollout
from protocol import names
from protocol.validation import FieldViolation

SERVED_NAME_CHARACTERS_MAX = 256


R = TypeVar("R", domain.Model, domain.Adapter)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDraft:
    """A model as requested, with every default filled in."""

    id: str
    served_name: str
    labels: Mapping[str, str]
    spec: model_pb2.ModelSpec
    card: model_pb2.ModelCard
    rollout_policy: rollout_pb2.RolloutPolicy | None = None
    """None: keep the current policy."""
    at_once: bool = False
    """Skip the canary, and end a rollout under way: the draft is served with this change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterDraft:
    """An adapter as requested, with every default filled in and its files read."""

    model_id: str
    id: str
    served_name: str
    labels: Mapping[str, str]
    source: model_pb2.Source
    weights: adapter_pb2.AdapterWeights
    card: adapter_pb2.AdapterCard


def check_registrable(current: domain.Model | domain.Adapter | None, *, must_create: bool) -> None:
    """Refuse to register over a deleted resource, or with `must_create` over an existing one.

    Raises:
        errors.AlreadyExists: There is such a resource.
    """
    if current is None:
        return
    if current.delete_time is not None:
        raise errors.still_deleted(current.name, current.purge_time)
    if must_create:
        raise errors.AlreadyExists(
            errors.Reason.ALREADY_REGISTERED,
            f"{current.name} exists since {current.create_time.isoformat(timespec='seconds')}, and must_create is set",
            violations=(FieldViolation(field="must_create", description=f"got true, and {current.name} exists"),),
            metadata={"resource": current.name},
        )


def deleted(current: R, stamp: domain.Stamp) -> R:
    """The resource after its deletion. It can be undeleted until its purge time."""
    return dataclasses.replace(
        current,
        delete_time=stamp.now,
        purge_time=stamp.purge_time,
        update_time=stamp.now,
        catalog_revision=stamp.catalog_revision,
    )


def undeleted(current: R, stamp: domain.Stamp) -> R:
    """The resource after it is undeleted.

    Raises:
        errors.AlreadyExists: It is not deleted.
    """
    if current.delete_time is None:
        raise errors.AlreadyExists(
            errors.Reason.NOT_DELETED, f"{current.name} is not deleted", metadata={"resource": current.name}
        )
    return dataclasses.replace(
        current, delete_time=None, purge_time=None, update_time=stamp.now, catalog_revision=stamp.catalog_revision
    )


def default_adapter_served_name(base_served_name: str, adapter_id: str) -> str:
    """`{served name of the base}:{adapter id}`.

    Raises:
        errors.InvalidArgument: The name would be too long.
    """
    served_name = f"{base_served_name}:{adapter_id}"
    if len(served_name) > SERVED_NAME_CHARACTERS_MAX:
        raise errors.InvalidArgument.of_field(
            "served_name",
            f"the default would have {len(served_name)} characters and at most {SERVED_NAME_CHARACTERS_MAX} are "
            "allowed: choose a name",
        )
    return served_name


def registered_model(current: domain.Model | None, draft: ModelDraft, stamp: domain.Stamp) -> domain.Model:
    """The model after a registration. `current` itself if nothing changes."""
    same = current is not None and _same(current.revision.spec, draft.spec) and _same(current.revision.card, draft.card)
    if current is not None and same:
        revision = current.revision
        if (current.served_name, dict(current.labels)) == (draft.served_name, dict(draft.labels)) and (
            draft.rollout_policy in (None, current.rollout_policy)
            and not (draft.at_once and rollout.is_under_way(current))
        ):
            return current
    else:
        revision = domain.ModelRevision(
            number=current.revision.number + 1 if current is not None else 1,
            spec=draft.spec,
            card=draft.card,
            create_time=stamp.now,
            catalog_revision=stamp.catalog_revision,
        )
    policy = draft.rollout_policy or (current.rollout_policy if current is not None else domain.REPLACE)
    if current is not None:
        changed = dataclasses.replace(
            current,
            served_name=draft.served_name,
            labels=draft.labels,
            revision=revision,
            update_time=stamp.now,
            catalog_revision=stamp.catalog_revision,
            rollout_policy=policy,
        )
        return rollout.begun(current, changed, stamp, at_once=draft.at_once)
    return domain.Model(
        id=draft.id,
        uid=stamp.uid,
        served_name=draft.served_name,
        labels=draft.labels,
        revision=revision,
        create_time=stamp.now,
        update_time=stamp.now,
        catalog_revision=stamp.catalog_revision,
        rollout_policy=policy,
    )


def registered_adapter(current: domain.Adapter | None, draft: AdapterDraft, stamp: domain.Stamp) -> domain.Adapter:
    """The adapter after a registration. `current` itself if nothing changes."""
    same = (
        current is not None
        and _same(current.revision.source, draft.source)
        and _same(current.revision.weights, draft.weights)
        and _same(current.revision.card, draft.card)
    )
    if current is not None and same:
        revision = current.revision
        if (current.served_name, dict(current.labels)) == (draft.served_name, dict(draft.labels)):
            return current
    else:
        revision = domain.AdapterRevision(
            number=current.revision.number + 1 if current is not None else 1,
            source=draft.source,
            weights=draft.weights,
            card=draft.card,
            create_time=stamp.now,
            catalog_revision=stamp.catalog_revision,
        )
    if current is not None:
        return dataclasses.replace(
            current,
            served_name=draft.served_name,
            labels=draft.labels,
            revision=revision,
            update_time=stamp.now,
            catalog_revision=stamp.catalog_revision,
        )
    return domain.Adapter(
        model_id=draft.model_id,
        id=draft.id,
        uid=stamp.uid,
        served_name=draft.served_name,
        labels=draft.labels,
        revision=revision,
        create_time=stamp.now,
        update_time=stamp.now,
        catalog_revision=stamp.catalog_revision,
    )


def _same(left: protobuf_message.Message, right: protobuf_message.Message) -> bool:
    # An absent and an empty message would differ here. Drafts have every default filled in, so the
    # same content always has the same form.
    return left.SerializeToString(deterministic=True) == right.SerializeToString(deterministic=True)


def _served_revisions(model: domain.Model) -> tuple[domain.ModelRevision, ...]:
    """The revisions that serve adapters: the stable one during a rollout, the new one after it."""
    return (model.revision,) if model.stable is None else (model.revision, model.stable)


def bases_of_adapters(model: domain.Model) -> tuple[model_pb2.ModelSpec, ...]:
    """The specs that an adapter's files have to fit: that of the newest revision first.

    During a rollout the stable revision is left out if it differs in nothing that matters to them.
    """
    newest, *stable = (revision.spec for revision in _served_revisions(model))
    return (newest, *(spec for spec in stable if (spec.source, spec.engine) != (newest.source, newest.engine)))


def check_takes_adapter(model: domain.Model) -> None:
    """Refuse an adapter for a model without LoRA support.

    Raises:
        errors.FailedPrecondition: The model has none.
    """
    if not all(revision.spec.HasField("lora") for revision in _served_revisions(model)):
        raise errors.FailedPrecondition(
            errors.Reason.MODEL_TAKES_NO_ADAPTERS,
            f"{model.name} takes no adapters: its spec has no lora",
            metadata={"resource": model.name},
        )


def unchanged_base(before: domain.Model, now: domain.Model | None) -> domain.Model:
    """The base model now, for an adapter whose files were checked against it before.

    Args:
        before: The base that the files were checked against.
        now: The base in the transaction. None: it is deleted.

    Raises:
        errors.NotFound: The base was deleted since.
        errors.Aborted: It is another model, or has other weights or another engine now.
    """
    if now is None:
        raise errors.model_not_found(before.name)
    read_for, wanted = ([(spec.source, spec.engine) for spec in bases_of_adapters(model)] for model in (before, now))
    if now.uid != before.uid or read_for != wanted:
        raise errors.Aborted(
            errors.Reason.CONCURRENT_CHANGE,
            f"{before.name} changed while the adapter was read; try again",
            metadata={"resource": before.name},
        )
    return now


def check_same_files(name: str, earlier: domain.AdapterRevision, weights: adapter_pb2.AdapterWeights) -> None:
    """Refuse to roll back to a revision whose files have changed.

    Args:
        name: Resource name of the adapter.
        earlier: The revision to roll back to.
        weights: The files at its source now.

    Raises:
        errors.FailedPrecondition: The files differ from those that were registered.
    """
    if weights.digest != earlier.weights.digest:
        raise errors.FailedPrecondition(
            errors.Reason.ADAPTER_FILES_CHANGED,
            f"the files at {earlier.source.uri} are not those of revision {earlier.number} of {name} any more; put "
            "them back, or register what is there",
            metadata={"resource": name, "revisionNumber": str(earlier.number)},
        )


def base_for_undelete(adapter: domain.Adapter, base: domain.Model | None) -> domain.Model:
    """The base of an adapter that is undeleted.

    Raises:
        errors.FailedPrecondition: The base is deleted itself.
    """
    if base is None:
        base_name = names.model_name(adapter.model_id)
        raise errors.FailedPrecondition(
            errors.Reason.BASE_MODEL_DELETED,
            f"{base_name}, the base of {adapter.name}, is deleted; undelete it first",
            metadata={"resource": adapter.name, "base": base_name},
        )
    return base


def rank_max(model: domain.Model) -> int:
    """The highest rank that the model serves. 0: it takes no adapters.

    During a rollout both revisions have to serve it, because either of them may be the one that
    stays.
    """
    return min(revision.spec.lora.max_rank for revision in _served_revisions(model))


def check_rank(model: domain.Model, rank: int, field: str, what: str = "the adapter") -> None:
    """Refuse an adapter, or a revision of one, whose rank is above the maximum of its model.

    Args:
        model: Its base.
        rank: Its rank.
        field: The path in the request that asks for it.
        what: What it is, for the message.

    Raises:
        errors.InvalidArgument: The rank is too high.
    """
    highest = rank_max(model)
    if rank > highest:
        raise errors.InvalidArgument.of_field(
            field,
            f"{what} has rank {rank}; {model.name} serves ranks up to {highest} (spec.lora.max_rank)",
            errors.Reason.ADAPTER_RANK_TOO_HIGH,
        )


def check_adapters_fit(model: str, highest: int, misfits: Iterable[tuple[str, int]], count: int, field: str) -> None:
    """Refuse a change after which the model would not serve all of its adapters.

    Args:
        model: Resource name of the model.
        highest: The highest rank that it would serve. 0: it would take no adapters.
        misfits: Name and rank of some adapters, and pinned revisions of them, with a higher rank.
        count: How many of these there are.
        field: The path in the request that asks for the change.

    Raises:
        errors.FailedPrecondition: There are any.
    """
    if count == 0:
        return
    named = ", ".join(f"{name} (rank {rank})" for name, rank in misfits)
    offered = f"lora.max_rank {highest}" if highest else "no lora"
    raise errors.FailedPrecondition(
        errors.Reason.ADAPTERS_WOULD_NOT_FIT,
        f"{model} has {count} adapters, or revisions of them that routes pin, that a spec with {offered} would not "
        f"serve, such as {named}",
        violations=(FieldViolation(field=field, description=f"got {offered}: too little for {named}"),),
        metadata={"resource": model, "adapterCount": str(count)},
    )


def check_deletable(model: domain.Model, adapter_names: tuple[str, ...], adapter_count: int) -> None:
    """Refuse to delete a model that has adapters.

    Args:
        model: The model.
        adapter_names: Resource names of some of its adapters, for the message.
        adapter_count: How many it has.

    Raises:
        errors.FailedPrecondition: It has any.
    """
    if adapter_count > 0:
        raise errors.FailedPrecondition(
            errors.Reason.MODEL_HAS_ADAPTERS,
            f"{model.name} has {adapter_count} adapters, such as {', '.join(adapter_names)}; "
            "delete them first, or delete with force",
            metadata={"resource": model.name, "adapterCount": str(adapter_count)},
        )
