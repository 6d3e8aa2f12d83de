"""Measures an RPC: how it ended, and how long it took."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from controlplane.metrics.metrics import Metrics

_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class Measuring:
    """Measures the RPCs of a server."""

    def __init__(self, metrics: Metrics, *, clock: Callable[[], float]) -> None:
        """
        Args:
            metrics: Where the measurements go.
            clock: Seconds of a clock that does not go back.
        """
        self._metrics = metrics
        self._clock = clock

    def of(self, method: str, context: grpc.aio.ServicerContext[Any, Any], *, streaming: bool) -> _Measurement:
        """Measure an `async with` block, which ends with the status that the caller gets.

        Args:
            method: `/broadsheet.v1.RegistryService/RegisterModel`.
            context: Of the call.
            streaming: Its length says nothing, and is not measured.
        """
        return _Measurement(self._metrics, self._clock, method, context, streaming=streaming)


class _Measurement:
    """The measurement of one RPC. A generator would keep five times the memory of a long one."""

    __slots__ = ("_clock", "_context", "_method", "_metrics", "_started_s")

    def __init__(
        self,
        metrics: Metrics,
        clock: Callable[[], float],
        method: str,
        context: grpc.aio.ServicerContext[Any, Any],
        *,
        streaming: bool,
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._method = method
        self._context = context
        self._started_s = None if streaming else clock()

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            code = grpc.StatusCode.OK.name
        elif issubclass(kind, asyncio.CancelledError):
            code = grpc.StatusCode.CANCELLED.name
        else:
            code = _code(self._context)
        seconds = None if self._started_s is None else self._clock() - self._started_s
        self._metrics.rpc_ended(self._method.removeprefix("/"), code, seconds)


def _code(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Name of the status that was set; UNKNOWN, as the caller gets it, if none was."""
    code: Any = context.code()
    return _NAMES.get(code if isinstance(code, int) else getattr(code, "value", (0,))[0] or 2, "UNKNOWN")
