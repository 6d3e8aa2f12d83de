"""How mutating RPCs commit: each through `Changes.commit`, which carries a request out once,
however often it comes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from google.protobuf import message as protobuf_message

from controlplane import principal
from controlplane.catalog import request_ids
from controlplane.catalog.request_ids import AnsweredRequest
from controlplane.store.store import Store
from controlplane.store.transactions import WriteTransaction

_log = structlog.get_logger("controlplane.rpc.handlers.idempotency")

R = TypeVar("R", bound=protobuf_message.Message)


class Changes:
    """Commits what mutating RPCs change. Servicers of one store may each have their own."""

    def __init__(self, store: Store) -> None:
        """
        Args:
            store: Where everything is kept.
        """
        self._store = store

    async def commit(
        self,
        request: protobuf_message.Message,
        response: type[R],
        work: Callable[[WriteTransaction], Awaitable[R]],
        *,
        resource: str,
        kept: Callable[[R], R] = lambda answer: answer,
    ) -> R:
        """Carry `request` out in a transaction of its own, unless that has been done already.

        The request has the fields `request_id` and `validate_only`, and is called after its method:
        SetRouteRequest. With an id that came before, the first answer is given again and `work` is
        not called; the answer is kept in the same transaction as the change. With `validate_only`
        every check is run and nothing is written.

        Args:
            request: The whole request.
            response: Class of its answer.
            work: Makes the change, and the answer. What it raises rolls everything back, and is
            kept nowhere.
            resource: Name of the resource that changes, for the history.
            kept: What a repeat is to be told instead of the first answer, for answers that hold a
            secret.

        Raises:
            errors.InvalidArgument: the id belongs to another request.
            errors.Unavailable: the database failed.
        """
        asked = _mutating(request)
        method, request_id = request_ids.method_of(asked), request_ids.request_id_of(asked)
        digest = request_ids.digest_of(request, principal.current())

        async def once(transaction: WriteTransaction) -> tuple[R, bool]:
            since = transaction.stamp.now - request_ids.RETENTION
            earlier = await transaction.answered_request(request_id, since=since) if request_id else None
            if earlier is not None:
                return request_ids.repeated(earlier, digest, response), True
            answer = await work(transaction)
            if request_id:
                answered = AnsweredRequest(
                    request_id=request_id,
                    method=method,
                    digest=digest,
                    response=kept(answer).SerializeToString(deterministic=True),
                    create_time=transaction.stamp.now,
                )
                await transaction.keep_answered_request(answered, since=since)
            return answer, False

        answer, is_repeat = await self._store.write(once, method=method, resource=resource, dry_run=asked.validate_only)
        _log.info(
            "request_repeated" if is_repeat else "change_made",
            method=method,
            resource=resource,
            request_id=request_id,
            catalog_revision=getattr(answer, "catalog_revision", None),
            validate_only=asked.validate_only,
        )
        return answer

    async def first_answer(self, request: protobuf_message.Message, response: type[R]) -> R | None:
        """The answer that `request` got before. None: it is new.

        `commit` looks by itself. This is for methods that do something long, or something that may
        fail differently by now, before they can commit.

        Raises:
            errors.InvalidArgument: the id belongs to another request.
            errors.Unavailable: the database failed.
        """
        request_id = request_ids.request_id_of(_mutating(request))
        earlier = await self._store.answered_request(request_id, request_ids.RETENTION) if request_id else None
        if earlier is None:
            return None
        return request_ids.repeated(earlier, request_ids.digest_of(request, principal.current()), response)


def _mutating(request: protobuf_message.Message) -> request_ids.MutatingRequest:
    needed = {"request_id", "validate_only"}
    assert needed <= set(request.DESCRIPTOR.fields_by_name), f"{request.DESCRIPTOR.name} lacks one of {needed}"
    mutating: request_ids.MutatingRequest = request  # type: ignore[assignment]  # generated classes state their fields
    return mutating
