"""Text that no field takes: found by its path, and made plain by who sends it."""

from __future__ import annotations

from broadsheet.v1 import model_pb2, registry_service_pb2
from protocol.validation import NUL_FIELDS_MAX, nul_violations, plain_text

NUL = "a\0b"


def test_every_text_with_a_nul_is_named() -> None:
    request = registry_service_pb2.RegisterModelRequest(
        labels={"team": NUL, "n\0": "x"},
        card=model_pb2.ModelCard(description=NUL, tags=["x", NUL]),
    )
    request.spec.engine.args["stop"] = NUL
    fields = {violation.field for violation in nul_violations(request)}
    assert fields == {
        'labels["team"]',
        'labels["n\\0"]',
        "card.description",
        "card.tags[1]",
        'spec.engine.args.fields["stop"].string_value',
    }


def test_zero_bytes_that_are_no_text_are_fine() -> None:
    request = registry_service_pb2.RegisterModelRequest()
    request.spec.engine.args["seed"] = 1.0
    assert b"\0" in request.SerializeToString()
    assert nul_violations(request) == ()


def test_the_list_of_fields_is_bounded() -> None:
    card = model_pb2.ModelCard(tags=[NUL] * 1000)
    assert len(nul_violations(card)) == NUL_FIELDS_MAX


def test_text_from_elsewhere_is_made_fit_for_a_field() -> None:
    message = model_pb2.ModelCard(description=plain_text("a\0b \udc80 ü"))
    assert message.description == "a?b ? ü"
    assert nul_violations(message) == ()
