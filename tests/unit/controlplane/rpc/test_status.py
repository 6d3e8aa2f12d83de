"""Domain errors as gRPC statuses."""

from __future__ import annotations

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]  # ships no stubs

from controlplane import errors
from controlplane.rpc import status
from protocol.validation import FieldViolation


def details(made: status_pb2.Status) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.BadRequest]:
    error, request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in made.details:
        assert detail.Unpack(error) or detail.Unpack(request)
    return error, request


def test_every_kind_of_domain_error_has_a_code_of_its_own() -> None:
    assert set(status.CODES) == set(errors.DomainError.__subclasses__())
    assert len(set(status.CODES.values())) == len(status.CODES)


@pytest.mark.parametrize("kind", list(status.CODES))
def test_every_status_carries_reason_domain_and_metadata(kind: type[errors.DomainError]) -> None:
    made = status.status_of(kind(errors.Reason.CATALOG_FULL, "words", metadata={"a": "b"}))
    error, request = details(made)
    assert (made.code, made.message) == (status.CODES[kind], "words")
    assert (error.reason, error.domain, dict(error.metadata)) == ("CATALOG_FULL", "broadsheet", {"a": "b"})
    assert not request.field_violations


def test_violations_become_a_bad_request() -> None:
    made = status.status_of(errors.InvalidArgument.of_field("spec.a", "got 1: must be 2"))
    (violation,) = details(made)[1].field_violations
    assert (violation.field, violation.description) == ("spec.a", "got 1: must be 2")
    assert made.message == "spec.a: got 1: must be 2"


def test_the_message_names_some_fields_and_counts_the_others() -> None:
    error = errors.InvalidArgument.of_fields([FieldViolation(f"f{index}", "wrong") for index in range(5)])
    assert error.message == "f0: wrong; f1: wrong; f2: wrong; and 2 more"
    assert len(details(status.status_of(error))[1].field_violations) == 5


@pytest.mark.parametrize("letter", ["x", "é", "漢", "😀"])
def test_the_largest_error_fits_into_trailers(letter: str) -> None:
    text = letter * 10_000
    error = errors.InvalidArgument(
        errors.Reason.INVALID_FIELDS,
        text,
        violations=[FieldViolation(text, text)] * 1000,
        metadata={"a": text, "b": text},
    )
    made = status.status_of(error)
    percent_encoded = sum(1 if byte < 0x7F else 3 for byte in made.message.encode())
    assert percent_encoded + made.ByteSize() * 4 / 3 < 8 * 1024
    assert details(made)[1].field_violations


def test_an_internal_error_says_its_id_and_nothing_else() -> None:
    made = status.internal("some-id")
    assert made.code == code_pb2.INTERNAL
    assert "some-id" in made.message
    assert details(made)[0].metadata["errorId"] == "some-id"


def test_every_reason_is_upper_snake_and_spelt_as_its_name() -> None:
    for reason in errors.Reason:
        assert reason.value == reason.name == reason.name.upper()
