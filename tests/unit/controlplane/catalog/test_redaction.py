"""Redaction: which values are hidden, and which are shown."""

from __future__ import annotations

import time
from typing import Any

import pytest
from google.protobuf import json_format, struct_pb2

from broadsheet.v1 import snapshot_pb2
from controlplane.catalog import redaction

SECRET = "hunter2"


def entry(**fields: Any) -> snapshot_pb2.ModelEntry:
    return json_format.ParseDict(fields, snapshot_pb2.ModelEntry())


def args(**values: Any) -> snapshot_pb2.ModelEntry:
    return entry(revision={"spec": {"engine": {"args": values}}})


def shown_args(**values: Any) -> dict[str, Any]:
    _, after = redaction.redacted(None, args(**values))
    assert after is not None
    shown: Any = after
    return dict(shown["revision"]["spec"]["engine"]["args"])


@pytest.mark.parametrize(
    "value",
    [
        {"hf_token": SECRET},
        {"hf-token": SECRET},
        {"apiKey": SECRET},
        {"API_KEY": SECRET},
        {"apikey": [SECRET, SECRET]},
        {"ssl_keyfile_password": SECRET},
        {"store": {"client_secret": {"value": SECRET}}},
        {"password": 12345},
        {"list": [{"aws_secret_access_key": SECRET}]},
        {"otlp_traces_endpoint": f"https://user:{SECRET}@host/path"},
        {"endpoint": f"see https://host/path?sig={SECRET} there"},
        {"endpoint": f"https://host/path#{SECRET}"},
        {"header": f"Authorization: Bearer {SECRET}"},
        {"env": [f"HF_TOKEN={SECRET}"]},
        {"kv_transfer_config": f'{{"host": "h", "auth": {{"password": "{SECRET}"}}}}'},
        {"nested": {"deep": f'{{"uri": "redis://:{SECRET}@host"}}'}},
    ],
)
def test_no_engine_argument_shows_a_secret(value: dict[str, Any]) -> None:
    shown = shown_args(**value)
    assert SECRET not in str(shown)
    assert "12345" not in str(shown)
    assert redaction.REDACTED in str(shown)
    assert shown.keys() == value.keys()


@pytest.mark.parametrize(
    "value",
    [
        {"max_num_batched_tokens": 2048},
        {"tokenizer": "org/name", "tokenizer_mode": "slow"},
        {"enable_prefix_caching": True, "use_token": True, "token": None},
        {"hf_overrides": '{"rope_theta": 1000}'},
        {"text": "not {json", "list": [1, 2.5, "x"], "empty": {}, "url": "http://host:80/path"},
        {"path": "/models/a=b", "keys": 3},
    ],
)
def test_values_that_are_not_secret_stay(value: dict[str, Any]) -> None:
    assert shown_args(**value) == value


def test_uris_and_labels_lose_their_credentials() -> None:
    message = entry(
        name="models/m",
        labels={"team": "search", "deploy-token": SECRET, "docs": f"https://u:{SECRET}@host/x"},
        revision={"spec": {"source": {"uri": f"s3://id:{SECRET}@bucket/path?signature={SECRET}"}}},
    )
    _, after = redaction.redacted(None, message)
    shown: Any = after
    assert shown["labels"] == {
        "team": "search",
        "deploy-token": "[redacted]",
        "docs": "https://[redacted]@host/x",
    }
    assert shown["revision"]["spec"]["source"]["uri"] == "s3://[redacted]@bucket/path?[redacted]"


def test_a_changed_secret_is_marked_and_an_unchanged_secret_is_not() -> None:
    before, after = redaction.redacted(args(hf_token="one", api_key="same"), args(hf_token="two", api_key="same"))
    both: Any = before, after
    assert both[0]["revision"]["spec"]["engine"]["args"] == {"hf_token": "[redacted]", "api_key": "[redacted]"}
    assert both[1]["revision"]["spec"]["engine"]["args"] == {"hf_token": "[redacted, changed]", "api_key": "[redacted]"}


def test_fields_are_shown_with_their_defaults_and_readable_values() -> None:
    message = entry(
        served_name="m",
        revision={
            "number": "3",
            "spec": {"engine": {"kind": "KIND_VLLM"}, "scaling": {"downscale_delay": "120s"}},
            "create_time": "2026-01-01T00:00:00Z",
        },
    )
    _, after = redaction.redacted(None, message)
    shown: Any = after
    assert shown["revision"]["number"] == 3
    assert shown["revision"]["create_time"] == "2026-01-01T00:00:00Z"
    assert shown["revision"]["spec"]["scaling"] == {
        "min_replicas": 0,
        "downscale_delay": "120s",
        "idle": "IDLE_UNSPECIFIED",
    }
    assert shown["revision"]["spec"]["engine"] == {"kind": "KIND_VLLM"}
    assert shown["labels"] == {}
    assert "lora" not in shown["revision"]["spec"]


def test_numbers_that_json_cannot_express_are_shown_as_text() -> None:
    message = snapshot_pb2.ModelEntry()
    message.revision.spec.engine.args.fields["x"].CopyFrom(struct_pb2.Value(number_value=float("nan")))
    message.revision.spec.engine.args.fields["unset"].CopyFrom(struct_pb2.Value())
    _, after = redaction.redacted(None, message)
    shown: Any = after
    assert shown["revision"]["spec"]["engine"]["args"] == {"unset": None, "x": "nan"}


@pytest.mark.parametrize("unit", ["x", "://", "a=", "?", "bearer ", "a: ", "{", "http://a@", "-", "key "])
def test_the_longest_text_takes_milliseconds(unit: str) -> None:
    text = unit * (256 * 1024 // len(unit))
    started_s = time.perf_counter()
    shown_args(text=text)
    # The slowest takes 0.1 s. With quadratic time it would take minutes.
    assert time.perf_counter() - started_s < 3
