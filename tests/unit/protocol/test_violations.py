"""What an error says of a field that breaks a rule."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from broadsheet.v1 import fleet_service_pb2, registry_service_pb2, snapshot_service_pb2
from broadsheet.v1.api_key_pb2 import GetApiKeyRequest
from broadsheet.v1.fleet_service_pb2 import GetDataPlaneRequest, WaitForRevisionRequest
from broadsheet.v1.registry_service_pb2 import (
    GetAdapterRequest,
    GetModelRequest,
    ListAdaptersRequest,
    RegisterAdapterRequest,
    RegisterModelRequest,
)
from broadsheet.v1.route_pb2 import DeleteRouteRequest, RouteSpec, RouteTarget, SetRouteRequest
from protocol.name_advice import advice_on_resource
from protocol.validation import violations_of

SERVICES = [
    service
    for file in (fleet_service_pb2, registry_service_pb2, snapshot_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
]


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


@pytest.mark.parametrize(
    ("request_", "advice", "served_name"),
    [
        (
            GetModelRequest(name="models/Qwen/Qwen2.5-7B"),
            "expected models/{model}; an id is 1 to 63 of a-z 0-9 . - with a letter or digit at both ends; "
            "the nearest is `models/qwen2.5-7b`, and `Qwen/Qwen2.5-7B` may be its served name",
            "Qwen/Qwen2.5-7B",
        ),
        (GetModelRequest(name="Qwen/Qwen2.5-7B"), "the nearest is `models/qwen2.5-7b`", "Qwen/Qwen2.5-7B"),
        (GetModelRequest(name="models/"), "expected models/{model}; an id is", ""),
        (GetModelRequest(name="routes/r"), "expected models/{model}; an id is", ""),
        (ListAdaptersRequest(parent="models/A/B"), "or models/- for all models; an id is", "A/B"),
        (
            GetAdapterRequest(name="models/Qwen/Qwen2.5-7B/adapters/Pirate"),
            "expected models/{model}/adapters/{adapter}; an id is 1 to 63 of a-z 0-9 . - with a letter or digit at "
            "both ends; the nearest is `models/qwen2.5-7b/adapters/pirate`",
            "Qwen/Qwen2.5-7B",
        ),
        (GetAdapterRequest(name="models/m:pirate/adapters/"), "expected models/{model}/adapters/{ad", "m:pirate"),
        (DeleteRouteRequest(name="routes/My/Route"), "the nearest is `routes/route`", "My/Route"),
        (GetApiKeyRequest(name="apiKeys/My Key"), "the nearest is `apiKeys/my-key`", ""),
        (GetDataPlaneRequest(name="dataPlanes/Eu_1"), "the nearest is `dataPlanes/eu-1`", ""),
        (
            WaitForRevisionRequest(revision=1, data_planes=["dataPlanes/Eu_1"]),
            "expected dataPlanes/{data_plane}; an id is",
            "",
        ),
        (
            SetRouteRequest(route_id="r", spec=RouteSpec(targets=[RouteTarget(resource="models/Qwen/Qwen2.5-7B")])),
            "a route cannot refer to a route; an id is 1 to 63 of a-z 0-9 . - with a letter or digit at both ends; "
            "the nearest is `models/qwen2.5-7b`",
            "Qwen/Qwen2.5-7B",
        ),
    ],
)
def test_another_name_in_place_of_a_resource_name_gets_one_that_is_possible(
    request_: Message, advice: str, served_name: str
) -> None:
    (violation,) = violations_of(request_)
    assert advice in violation.description
    assert "regex" not in violation.description
    assert violation.served_name == served_name


def test_no_field_of_a_name_answers_with_a_regular_expression() -> None:
    bare = []
    for method in (method for service in SERVICES for method in service.methods):
        request_ = GetMessageClass(method.input_type)()
        for field in ("name", "parent"):
            if field in request_.DESCRIPTOR.fields_by_name:
                setattr(request_, field, "Hub/Name")
        named = [item for item in violations_of(request_) if item.field in ("name", "parent")]
        bare += [
            method.full_name for item in named if "regex" in item.description or "an id is" not in item.description
        ]
    assert bare == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "models/m",
        "models/m/adapters/a",
        "models/m/revisions/3",
        "models/m/adapters/a/revisions/3",
        "routes/r",
        "apiKeys/k",
        "snapshots/5",
        "dataPlanes/Odd",
        "anything",
    ],
)
def test_what_may_be_a_resource_needs_no_advice(name: str) -> None:
    assert advice_on_resource(name) is None
