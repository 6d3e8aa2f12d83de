"""What an error says of a field that breaks a rule."""

from __future__ import annotations

import pytest

from broadsheet.v1.registry_service_pb2 import RegisterAdapterRequest, RegisterModelRequest
from protocol.validation import violations_of


@pytest.mark.parametrize(
    ("model_id", "advice"),
    [
        ("Qwen/Qwen2.5-7B", "the model id may be `qwen2.5-7b`, and the served name `Qwen/Qwen2.5-7B`"),
        ("My_Model", "the model id may be `my-model`, and the served name `My_Model`"),
        ("ü m", "the model id may be `m`"),
        ("/", "a letter or digit at both ends"),
        ("a" * 70, f"the model id may be `{'a' * 63}`"),
    ],
)
def test_a_name_given_as_an_id_gets_an_id_that_is_possible(model_id: str, advice: str) -> None:
    (violation,) = (item for item in violations_of(RegisterModelRequest(model_id=model_id)) if item.field == "model_id")
    assert violation.description.startswith(f"got {model_id!r}: expected 1 to 63 of a-z 0-9 . -")
    assert advice in violation.description
    assert "regex" not in violation.description


def test_an_adapter_id_is_called_one() -> None:
    request = RegisterAdapterRequest(parent="models/m", adapter_id="Org/Pirate")
    descriptions = {item.field: item.description for item in violations_of(request)}
    assert "the adapter id may be `pirate`, and the served name `Org/Pirate`" in descriptions["adapter_id"]
