"""From gRPC statuses to the exceptions of the client."""

from __future__ import annotations

import grpc
import pytest

from broadsheet import errors
from broadsheet._connection.status import ERROR_OF_CODE
from broadsheet.client import Client
from protocol.validation import FieldViolation
from tests.unit.client.conftest import ScriptedServer


def test_every_status_code_has_its_own_exception() -> None:
    codes = set(grpc.StatusCode) - {grpc.StatusCode.OK}
    assert set(ERROR_OF_CODE) == codes
    assert len(set(ERROR_OF_CODE.values())) == len(codes)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_plain_status_without_details_is_mapped_too(server: ScriptedServer, code: grpc.StatusCode) -> None:
    server.answer = lambda method, request, context: context.abort(code, "plain")
    with Client(server.endpoint) as client, pytest.raises(errors.BroadsheetError) as caught:
        client.get_model("m")
    assert type(caught.value) is ERROR_OF_CODE[code]
    assert (caught.value.reason, caught.value.message, caught.value.violations) == (code.name, "plain", ())
    assert isinstance(caught.value.__cause__, grpc.RpcError)


@pytest.mark.parametrize("details", [b"\xff\xff", b"", b"\x08\x07"], ids=["garbage", "empty", "another code"])
def test_unreadable_details_do_not_hide_the_error(server: ScriptedServer, details: bytes) -> None:
    def answer(method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        raise AssertionError("abort returned")

    server.answer = answer
    with Client(server.endpoint) as client, pytest.raises(errors.NotFound, match="gone"):
        client.get_model("m")


def test_the_docstring_names_every_exception() -> None:
    classes = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.BroadsheetError)
    }
    assert classes <= set((errors.__doc__ or "").split())


def test_a_field_that_the_message_names_is_not_repeated() -> None:
    violation = FieldViolation(field="model_id", description="got ''")
    assert str(errors.InvalidArgument("model_id: got ''", violations=(violation,))) == "model_id: got ''"
    assert str(errors.InvalidArgument("wrong", violations=(violation,))) == "wrong\n  model_id: got ''"
