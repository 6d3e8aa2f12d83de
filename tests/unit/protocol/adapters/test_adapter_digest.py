"""The digest of an adapter's files."""

from __future__ import annotations

import hashlib

import pytest

from broadsheet.v1 import adapter_pb2
from protocol.adapters.adapter_digest import weights_digest


def file(path: str, content: bytes = b"x") -> adapter_pb2.AdapterFile:
    return adapter_pb2.AdapterFile(path=path, size_bytes=len(content), sha256=hashlib.sha256(content).digest())


def test_the_digest_is_as_the_proto_specifies() -> None:
    x, yy = hashlib.sha256(b"x").hexdigest(), hashlib.sha256(b"yy").hexdigest()
    expected = hashlib.sha256(f"{x} 1 a\n{yy} 2 b\n".encode()).digest()
    assert weights_digest([file("b", b"yy"), file("a")]) == expected


def test_every_part_of_every_file_counts() -> None:
    digests = {
        weights_digest(files) for files in ([], [file("a")], [file("b")], [file("a", b"y")], [file("a"), file("b")])
    }
    assert len(digests) == 5


@pytest.mark.parametrize("files", [[file("a"), file("a")], [file("a\nb")]])
def test_ambiguous_lists_are_rejected(files: list[adapter_pb2.AdapterFile]) -> None:
    with pytest.raises(ValueError, match="adapter files"):
        weights_digest(files)
