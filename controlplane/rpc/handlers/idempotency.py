"""Carries out each mutating request once, however often it is sent (AIP-155)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog
from google.protobuf import message as protobuf_message

from controlplane import principal
from controlplane.catalog import domain, request_ids
from controlplane.catalog.request_ids import AnsweredRequest
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction

_log = structlog.get_logger("controlplane.rpc.idempotency")

R = TypeVar("R", bound=protobuf_message.Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A mutating request, and what tells it from others."""

    method: str
    request_id: str
    """Empty: the caller gave none, so no repeat is recognised."""
    digest: bytes
    validate_only: bool


async def commit(
    store: Store,
    request: protobuf_message.Message,
    response: type[R],
    work: Callable[[WriteTransaction], Awaitable[R]],
    *,
    resource: str,
    kept: Callable[[R], R] = lambda answer: answer,
    is_large: bool = False,
) -> R:
    """Carry out `request` in a transaction of its own, unless that was done before.

    The request has the fields `request_id` and `validate_only`, and is named after its method
    (`SetRouteRequest`). A repeat gets the first answer, and `work` is not called. The answer is
    stored in the transaction of the change. With `validate_only` every check runs and nothing
    is written.

    Args:
        store: Where the change is committed.
        request: The whole request.
        response: Class of its answer.
        work: Makes the change and the answer. What it raises rolls everything back, and is not
            stored.
        resource: Name of the resource that changes, for the history.
        kept: The answer to store for repeats. Differs from the first one where that holds a
            secret.
        is_large: It may change thousands of resources, see `Store.write`.

    Raises:
        errors.InvalidArgument: The request id belongs to another request.
        errors.Unavailable: The database failed.
    """
    call = _call(request)

    async def once(transaction: WriteTransaction) -> tuple[R, bool]:
        earlier = (
            await transaction.request_ids.find(call.request_id, request_ids.RETENTION) if call.request_id else None
        )
        if earlier is not None:
            return request_ids.repeated(earlier, call.digest, response), True
        answer = await work(transaction)
        if call.request_id:
            answered = _answered(call, kept(answer), transaction.stamp)
            await transaction.request_ids.keep(answered)
        return answer, False

    answer, is_repeat = await store.write(
        once, method=call.method, resource=resource, dry_run=call.validate_only, is_large=is_large
    )
    _log.info(
        "request_repeated" if is_repeat else "change_made",
        method=call.method,
        resource=resource,
        request_id=call.request_id,
        catalog_revision=getattr(answer, "catalog_revision", None),
        validate_only=call.validate_only,
    )
    return answer


async def first_answer(store: Store, request: protobuf_message.Message, response: type[R]) -> R | None:
    """The stored answer to `request`. None: it was not carried out before.

    `commit` checks this by itself. Methods that read files first call it so that a repeat is
    answered even when the files are gone.

    Raises:
        errors.InvalidArgument: The request id belongs to another request.
        errors.Unavailable: The database failed.
    """
    call = _call(request)
    if not call.request_id:
        return None
    earlier = await store.request_ids.find(call.request_id, request_ids.RETENTION)
    return request_ids.repeated(earlier, call.digest, response) if earlier is not None else None


def _call(request: protobuf_message.Message) -> _Call:
    needed = {"request_id", "validate_only"}
    assert needed <= set(request.DESCRIPTOR.fields_by_name), f"{request.DESCRIPTOR.name} lacks one of {needed}"
    mutating: request_ids.MutatingRequest = request  # type: ignore[assignment]  # generated classes state their fields
    return _Call(
        method=request_ids.method_of(mutating),
        request_id=request_ids.request_id_of(mutating),
        digest=request_ids.digest_of(request, principal.current()),
        validate_only=mutating.validate_only,
    )


def _answered(call: _Call, answer: protobuf_message.Message, stamp: domain.Stamp) -> AnsweredRequest:
    return AnsweredRequest(
        request_id=call.request_id,
        method=call.method,
        digest=call.digest,
        response=answer.SerializeToString(deterministic=True),
        create_time=stamp.now,
    )
