"""Measures every RPC: how it ended, and how long it took."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import grpc


class RpcMetrics(Protocol):
    """Where the measurements go."""

    def rpc_ended(self, method: str, code: str, seconds: float | None) -> None:
        """An RPC has ended; `seconds` is None for a stream."""


class MeasuringInterceptor(grpc.aio.ServerInterceptor):
    """Comes first, so that it sees the status that the caller gets.

    Methods that do not exist have no handler, and are not counted: their names are the caller's.
    """

    def __init__(self, metrics: RpcMetrics, *, clock: Callable[[], float]) -> None:
        """
        Args:
            metrics: Where the measurements go.
            clock: Seconds of a clock that does not go back.
        """
        self._metrics = metrics
        self._clock = clock

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of a method, wrapped."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method.removeprefix("/")
        for kind, make in _KINDS.items():
            function = getattr(handler, kind)
            if function is not None:
                # A unary call may be handled as a stream of requests: what counts is the answer.
                measured = self._measured(method, function, is_stream=handler.response_streaming)
                return make(measured, handler.request_deserializer, handler.response_serializer)
        raise AssertionError("a handler is of one of four kinds")

    def _measured(self, method: str, function: Callable[..., Any], *, is_stream: bool) -> Callable[..., Awaitable[Any]]:
        async def measured(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            started_s = self._clock()
            code = grpc.StatusCode.OK.name
            try:
                return await function(request, context)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED.name
                raise
            except BaseException:
                code = _code(context)
                raise
            finally:
                self._metrics.rpc_ended(method, code, None if is_stream else self._clock() - started_s)

        return measured


_KINDS: dict[str, Callable[..., grpc.RpcMethodHandler[Any, Any]]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def _code(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Name of the status that was set; UNKNOWN, as the caller gets it, if none was."""
    code: Any = context.code()
    return _NAMES.get(code if isinstance(code, int) else getattr(code, "value", (0,))[0] or 2, "UNKNOWN")
