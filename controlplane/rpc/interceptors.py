"""Around every RPC: authorisation, the rules in the protos, and errors as statuses, logged once."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
import structlog
from google.protobuf import message as protobuf_message
from google.rpc import status_pb2  # type: ignore[import-untyped]  # ships no stubs
from grpc_status import rpc_status

from controlplane import errors, principal
from controlplane.rpc import status
from controlplane.rpc.measuring import Measuring
from controlplane.rpc.places import Places, peer_address
from controlplane.rpc.turns import Turns
from protocol.name_advice import served_name_in
from protocol.validation import FieldViolation, nul_violations, violations_of

_log = structlog.get_logger("controlplane.rpc")

_OWN_PACKAGE = "/broadsheet."
"""Prefix of our own methods. Health and reflection have no rules, and do not delay the stop."""

_HOLDERS_MAX = 4
"""Violations of a request for which the database is asked."""

_PEERS_MAX = 4096
"""Connections whose address is kept, to find it once for each and not for each call."""

_WATCH_GRACE_S = 0.2
"""Time for a health watch to report that the service stops."""

WATCHES_MAX = 1000
WATCHES_PER_PEER_MAX = 100
"""Streams without credentials, which are health watches: one for each channel of a client that
balances its load. They may last for ever."""

ANONYMOUS_MAX = 1000
ANONYMOUS_PER_PEER_MAX = 100
"""Unary calls without credentials, which may wait for their message."""

UNKNOWN_MAX = 4000
UNKNOWN_PER_PEER_MAX = 400
"""Calls whose credentials are being verified, which may take a fetch of the issuer's keys. With
those that have none they are a third of all RPCs, so that those of known callers always have the
rest."""

REQUEST_TIMEOUT_S = 30.0
"""From the admission of a unary call to its message. 4 MiB take so long at 1 Mbit/s."""

UNKNOWN_READING_MAX = 32
UNKNOWN_READING_PER_PEER_MAX = 2
"""Calls without credentials whose message is being read. Until it has come, each may hold as much
as the largest message, and gRPC has no other limit for them: 8 MiB for each address."""

UNKNOWN_REQUEST_TIMEOUT_S = 5.0
"""From the turn of a call without credentials to its message, which is small and comes with it."""

UNKNOWN_MESSAGE_BYTES_MAX = 4096
"""Of a call without credentials: the name of a service, or an enrolment token."""

HolderOf = Callable[[str], Awaitable[str | None]]
"""Finds the resource that is served under a name; None: there is none."""


async def nobody(_: str) -> None:
    """A HolderOf that knows no resource."""


Admit = Callable[[str, grpc.aio.ServicerContext[Any, Any]], Awaitable[principal.Principal]]


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Admits calls, checks requests, and turns exceptions into statuses with details.

    The text of an unexpected exception never reaches the caller. Unary requests are checked by the
    rules in their protos before the handler sees them. The handler of a stream checks its messages
    itself, since an invalid message need not end the stream, and writes serialised messages.
    """

    def __init__(
        self, new_error_id: Callable[[], str], admit: Admit, holder_of: HolderOf, measuring: Measuring
    ) -> None:
        """
        Args:
            new_error_id: Makes the id of an internal error, for the log and the caller.
            admit: Returns who calls a method, or raises a domain error. Called before anything
                else.
            holder_of: For errors about a served name in place of a resource name.
            measuring: Measures every call.
        """
        self._new_error_id = new_error_id
        self._admit = admit
        self._holder_of = holder_of
        self._measuring = measuring
        self._watches = Places(
            "health watches without credentials", in_all_max=WATCHES_MAX, per_peer_max=WATCHES_PER_PEER_MAX
        )
        self._anonymous = Places(
            "calls without credentials", in_all_max=ANONYMOUS_MAX, per_peer_max=ANONYMOUS_PER_PEER_MAX
        )
        self._unknown = Places(
            "calls whose caller is not known", in_all_max=UNKNOWN_MAX, per_peer_max=UNKNOWN_PER_PEER_MAX
        )
        self._reading = Turns(in_all_max=UNKNOWN_READING_MAX, per_peer_max=UNKNOWN_READING_PER_PEER_MAX)
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._ending = asyncio.Event()

    def end_watches(self) -> None:
        """End the streams of other services, such as health watches, which have no end."""
        self._ending.set()

    async def idle(self) -> None:
        """Return when no RPC of Broadsheet's own services runs."""
        await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, wrapped."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        has_rules = method.startswith(_OWN_PACKAGE)
        deserializer = _deferred(handler.request_deserializer) if has_rules else handler.request_deserializer
        # Every handler reads its own messages. gRPC would read that of a unary call before it calls
        # the handler, and let callers hold calls, and send megabytes, before they are known.
        if handler.unary_unary is not None:
            wrapped = self._unary(method, handler.unary_unary, has_rules=has_rules)
            # Maps have no order. Without a fixed one, the repeat of an answer could differ.
            serializer = _deterministic if has_rules else handler.response_serializer
            return grpc.stream_unary_rpc_method_handler(wrapped, deserializer, serializer)
        if handler.unary_stream is not None:
            streaming = self._stream(method, handler.unary_stream, one_request=True)
            return grpc.stream_stream_rpc_method_handler(streaming, deserializer, handler.response_serializer)
        assert handler.stream_stream is not None, "no service has a method with many requests and one response"
        streaming = self._stream(method, handler.stream_stream, one_request=False)
        # Our own handler writes bytes: many streams get the same, which is serialised once.
        serializer = None if has_rules else handler.response_serializer
        return grpc.stream_stream_rpc_method_handler(streaming, deserializer, serializer)

    def _unary(self, method: str, handler: Callable[..., Any], *, has_rules: bool) -> Callable[..., Awaitable[Any]]:
        async def wrapped(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            async with (
                self._measuring.of(method, context, streaming=False),
                self._guarded(method, context),
                self._admitted(method, context, streaming=False),
            ):
                request = await self._read(requests, context)
                try:
                    if has_rules:
                        request = request()
                        check(request)
                    with principal.called_from(_origin(request, context)):
                        return await handler(request, context)
                except errors.InvalidArgument as error:
                    raise await _with_holders(error, self._holder_of) from None
                except errors.NotFound as error:
                    raise await _with_holder(error, self._holder_of) from None

        return wrapped

    def _stream(self, method: str, handler: Callable[..., Any], *, one_request: bool) -> Callable[..., Awaitable[None]]:
        # grpc.aio accepts handlers that yield and handlers that call `context.write`. The wrapper
        # is of the second kind, and can wrap both.
        async def wrapped(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> None:
            async with (
                self._measuring.of(method, context, streaming=True),
                self._guarded(method, context),
                self._admitted(method, context, streaming=True),
            ):
                if method.startswith(_OWN_PACKAGE):
                    assert not one_request, "the handler of a stream checks its messages itself"
                    await _run_stream(handler, _each_parsed(requests), context)
                else:
                    request = await self._read(requests, context) if one_request else requests
                    await self._until_ending(_run_stream(handler, request, context))

        return wrapped

    async def _read(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        """The message of a call that has one. Callers that are not known take turns."""
        if principal.current() is not principal.ANONYMOUS:
            return await _only(requests, REQUEST_TIMEOUT_S)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S), self._reading.turn(_caller_of(context.peer())):
                request = await _only(requests, UNKNOWN_REQUEST_TIMEOUT_S)
        except TimeoutError:
            raise errors.ResourceExhausted(
                errors.Reason.TOO_MANY_UNKNOWN_CALLERS, "too many calls without credentials send their messages slowly"
            ) from None
        size_bytes = request.ByteSize() if isinstance(request, protobuf_message.Message) else len(request.args[1])
        if size_bytes > UNKNOWN_MESSAGE_BYTES_MAX:
            raise errors.InvalidArgument(
                errors.Reason.UNREADABLE_MESSAGE,
                f"the message has {size_bytes} bytes; {UNKNOWN_MESSAGE_BYTES_MAX} are allowed without credentials",
            )
        return request

    async def _until_ending(self, stream: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(stream)
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait((task, ending), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((task,), timeout=_WATCH_GRACE_S)
            if not task.done():
                raise errors.Unavailable(errors.Reason.SHUTTING_DOWN, "this control plane is stopping")
            await task
        finally:
            task.cancel()
            ending.cancel()

    @contextlib.asynccontextmanager
    async def _guarded(self, method: str, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
        counted = method.startswith(_OWN_PACKAGE)
        self._count(1 if counted else 0)
        try:
            yield
        except (asyncio.CancelledError, grpc.aio.AbortError):
            # The caller has gone, or has its answer already.
            raise
        except errors.DomainError as error:
            self._log_refusal(method, error)
            await _abort(context, status.status_of(error))
        except Exception:
            error_id = self._new_error_id()
            _log.exception("rpc_failed", method=method, error_id=error_id)
            await _abort(context, status.internal(error_id))
        finally:
            self._count(-1 if counted else 0)

    @contextlib.asynccontextmanager
    async def _admitted(
        self, method: str, context: grpc.aio.ServicerContext[Any, Any], *, streaming: bool
    ) -> AsyncIterator[None]:
        # Before the request is read, so that callers without permission learn nothing from it, and
        # hold nothing by not sending it.
        peer = _caller_of(context.peer())
        with self._unknown.hold(peer):
            caller = await self._admit(method, context)
        if caller is not principal.ANONYMOUS:
            with principal.acting_as(caller):
                yield
            return
        places = self._watches if streaming else self._anonymous
        with places.hold(peer), principal.acting_as(caller):
            yield

    def _count(self, change: int) -> None:
        self._running += change
        if self._running:
            self._idle.clear()
        else:
            self._idle.set()

    def _log_refusal(self, method: str, error: errors.DomainError) -> None:
        if isinstance(error, errors.Unavailable) and error.reason != errors.Reason.SHUTTING_DOWN:
            _log.error("rpc_unavailable", method=method, reason=error.reason, exc_info=error.__cause__)
        else:
            _log.info("rpc_refused", method=method, reason=error.reason, error=error.message)


def _deferred(parse: Callable[[bytes], Any] | None) -> Callable[[bytes], Callable[[], Any]]:
    """A deserializer that returns a function which parses the message.

    grpc.aio answers a failing deserializer with a bare INTERNAL, as if the fault were ours.
    """
    assert parse is not None, "generated handlers have a deserializer"
    return functools.partial(functools.partial, _parsed, parse)


def _parsed(parse: Callable[[bytes], Any], content: bytes) -> Any:
    try:
        return parse(content)
    except protobuf_message.DecodeError:
        raise errors.InvalidArgument(
            errors.Reason.UNREADABLE_MESSAGE, "the request's bytes are no message of its type; update the client"
        ) from None


async def _only(requests: AsyncIterator[Any], timeout_s: float) -> Any:
    """The message of a call that has one."""
    try:
        async with asyncio.timeout(timeout_s):
            return await anext(requests)
    except TimeoutError:
        description = f"the call sent no message within {timeout_s:g} s"
    except StopAsyncIteration:
        description = "the call ended without a message"
    raise errors.InvalidArgument(errors.Reason.UNREADABLE_MESSAGE, description)


async def _each_parsed(requests: AsyncIterator[Callable[[], Any]]) -> AsyncIterator[Any]:
    async for parse in requests:
        request = parse()
        # Until the next message comes, which may be in minutes, neither is kept.
        del parse
        yield request
        del request


async def _run_stream(handler: Callable[..., Any], request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    responses = handler(request, context)
    if not inspect.isasyncgen(responses):
        await responses
        return
    async with contextlib.aclosing(responses):
        async for response in responses:
            await context.write(response)


def check(request: protobuf_message.Message) -> None:
    """Check a request by the rules in its proto, and its text for NUL.

    Raises:
        errors.InvalidArgument: It breaks a rule.
    """
    violations = nul_violations(request) or violations_of(request)
    if violations:
        raise errors.InvalidArgument.of_fields(violations)


async def _with_holders(error: errors.InvalidArgument, holder_of: HolderOf) -> errors.InvalidArgument:
    """The error, with the resource that has the served name that was given in place of its own."""
    told = list(error.violations)
    for index, violation in enumerate(error.violations[:_HOLDERS_MAX]):
        holder = await _holder(violation.served_name, holder_of)
        if holder is not None:
            description = f"{violation.description}; `{violation.served_name}` is the served name of {holder}"
            told[index] = FieldViolation(field=violation.field, description=description)
    return error if told == list(error.violations) else errors.InvalidArgument.of_fields(told, error.reason)


async def _with_holder(error: errors.NotFound, holder_of: HolderOf) -> errors.NotFound:
    """The error, with the resource that is served under the id that was given."""
    name = error.metadata.get("resource", "")
    served_name = served_name_in(name)
    is_missing = error.reason != errors.Reason.REVISION_NOT_FOUND
    holder = await _holder(served_name, holder_of) if is_missing else None
    if holder is None or holder == name:
        return error
    return errors.NotFound(
        error.reason,
        f"{error.message}; `{served_name}` is the served name of {holder}",
        violations=error.violations,
        metadata={**error.metadata, "holder": holder},
    )


async def _holder(served_name: str, holder_of: HolderOf) -> str | None:
    with contextlib.suppress(errors.Unavailable):  # the request is wrong all the same
        return await holder_of(served_name) if served_name else None
    return None


@functools.lru_cache(_PEERS_MAX)
def _caller_of(peer: str) -> str:
    """Whom a call counts for, from gRPC's name of its peer (`ipv6:%5B::1%5D:50000`)."""
    return peer_address(unquote(peer))


def _origin(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> principal.Origin:
    # `ipv4:127.0.0.1:50000`, `ipv6:%5B::1%5D:50000` or `unix:/path`.
    address = unquote(context.peer()).removeprefix("ipv4:").removeprefix("ipv6:")
    return principal.Origin(address=address, request_id=getattr(request, "request_id", ""))


def _deterministic(response: protobuf_message.Message) -> bytes:
    return response.SerializeToString(deterministic=True)


async def _abort(context: grpc.aio.ServicerContext[Any, Any], rich: status_pb2.Status) -> NoReturn:
    await context.abort_with_status(rpc_status.to_status(rich))
    raise AssertionError("abort_with_status does not return")
