"""The encodings that ingress and engine replicas share."""

from __future__ import annotations

import base64

import pytest

from broadsheet.v1 import snapshot_pb2
from dataplane.openai import wire
from tests import views


def test_adapter_entry_is_sent_without_card_and_labels() -> None:
    entry = views.adapter("m", "a", card_text="x" * 16_000)
    entry.labels["team"] = "zoo"
    before = entry.SerializeToString()
    sent = snapshot_pb2.AdapterEntry.FromString(base64.b64decode(wire.encode_adapter(entry)))
    assert len(wire.encode_adapter(entry)) < 500
    assert not sent.labels
    assert sent.revision.weights == entry.revision.weights
    assert entry.SerializeToString() == before


def test_encoded_adapter_is_decoded() -> None:
    entry = views.adapter("m", "a")
    decoded = wire.decode_adapter(wire.encode_adapter(entry).encode())
    assert decoded.revision.weights == entry.revision.weights
    assert decoded.served_name == entry.served_name


@pytest.mark.parametrize("header", [b"%%%", base64.b64encode(b"\xff\xff\xff"), b"\xff"])
def test_header_that_is_no_adapter_entry_is_refused(header: bytes) -> None:
    with pytest.raises(ValueError, match="AdapterEntry"):
        wire.decode_adapter(header)


@pytest.mark.parametrize("header", [b"", b"Bearer", b"Bearer wrong", b"s3cret", b"bearer s3cret"])
def test_only_the_header_with_the_secret_is_authorized(header: bytes) -> None:
    assert wire.is_authorized(wire.authorization("s3cret").encode(), "s3cret")
    assert not wire.is_authorized(header, "s3cret")
