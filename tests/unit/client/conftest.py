"""A gRPC server whose answers a test scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no stubs
from grpc_status import rpc_status

Answer = Callable[[str, bytes, grpc.ServicerContext], bytes]
"""Makes the bytes of a response from method name, bytes of the request, and context."""


class ScriptedServer(grpc.GenericRpcHandler):
    """A real server on a real port. It calls `answer` for every RPC."""

    def __init__(self) -> None:
        self.answer: Answer = lambda method, request, context: b""
        self.calls: list[tuple[str, float]] = []
        """Method and remaining seconds of each RPC that arrived."""
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), handlers=[self])
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=None).wait()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = handler_call_details.method.rpartition("/")[2]

        def handle(request: bytes, context: grpc.ServicerContext) -> bytes:
            self.calls.append((method, context.time_remaining() or 0.0))
            return self.answer(method, request, context)

        return grpc.unary_unary_rpc_method_handler(handle)

    def fail(self, code: grpc.StatusCode, message: str = "no", *details: Message) -> None:
        """Answer every RPC with this error."""

        def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
            packed = []
            for detail in details:
                packed.append(any_pb2.Any())
                packed[-1].Pack(detail)
            status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=message, details=packed)
            context.abort_with_status(rpc_status.to_status(status))
            raise AssertionError("abort_with_status returned")

        self.answer = answer


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    scripted.start()
    yield scripted
    scripted.stop()


def error_info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="broadsheet", metadata=metadata)


def bad_request(**fields: str) -> error_details_pb2.BadRequest:
    violations = [
        error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
        for field, description in fields.items()
    ]
    return error_details_pb2.BadRequest(field_violations=violations)
