"""Measures an RPC: how it ended, and how long it took."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
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

    @contextlib.asynccontextmanager
    async def of(
        self, method: str, context: grpc.aio.ServicerContext[Any, Any], *, streaming: bool
    ) -> AsyncIterator[None]:
        """Measure the block, which ends with the status that the caller gets.

        Args:
            method: `/broadsheet.v1.RegistryService/RegisterModel`.
            context: Of the call.
            streaming: Its length says nothing, and is not measured.
        """
        started_s = self._clock()
        code = grpc.StatusCode.OK.name
        try:
            yield
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED.name
            raise
        except BaseException:
            code = _code(context)
            raise
        finally:
            self._metrics.rpc_ended(method.removeprefix("/"), code, None if streaming else self._clock() - started_s)


def _code(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """Name of the status that was set; UNKNOWN, as the caller gets it, if none was."""
    code: Any = context.code()
    return _NAMES.get(code if isinstance(code, int) else getattr(code, "value", (0,))[0] or 2, "UNKNOWN")
