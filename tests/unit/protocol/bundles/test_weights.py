"""The files of adapters in a bundle: which have to be there, and what is no path or no digest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import pytest

from broadsheet.v1.adapter_pb2 import AdapterFile
from broadsheet.v1.snapshot_pb2 import AdapterEntry
from protocol.adapters.adapter_digest import weights_digest
from protocol.bundles.content import BundleError
from protocol.bundles.weights import (
    MAGIC,
    files_of,
    has_weights,
    local_adapters,
    read_files,
    write_file,
    write_magic,
)
from tests.raw import adapter

CONTENTS = (b"one" * 1000, b"", b"two")


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def entry(*paths: str, uri: str = "file:///adapters/x", contents: Sequence[bytes] = CONTENTS) -> AdapterEntry:
    made = adapter("a", "x", uri=uri)
    for path, content in zip(paths, contents, strict=False):
        made.revision.weights.files.append(AdapterFile(path=path, size_bytes=len(content), sha256=sha256(content)))
    made.revision.weights.digest = weights_digest(made.revision.weights.files)
    return made


def packed(made: AdapterEntry, contents: Sequence[bytes] = CONTENTS) -> bytes:
    file = io.BytesIO()
    write_magic(file)
    by_digest = {sha256(content): content for content in contents}
    for digest, size_bytes in files_of([made]).items():
        write_file(file, digest, size_bytes, io.BytesIO(by_digest[digest]))
    return file.getvalue()


def unpacked(content: bytes, made: AdapterEntry) -> dict[bytes, bytes]:
    file = io.BytesIO(content)
    assert has_weights(file)
    return {digest: b"".join(blocks) for digest, blocks in read_files(file, files_of([made]))}


def test_files_are_the_same_after_a_bundle_each_once() -> None:
    made = entry("a", "b/c", "d", "again", contents=(*CONTENTS, CONTENTS[0]))
    content = packed(made)
    assert unpacked(content, made) == {sha256(content): content for content in CONTENTS}
    assert content.count(b"one" * 1000) == 1


def test_every_damage_is_noticed() -> None:
    made = entry("a", "b", "c")
    content = packed(made)
    for end in range(len(MAGIC), len(content), 53):
        with pytest.raises(BundleError):
            unpacked(content[:end], made)
    for place in range(len(MAGIC), len(content), 53):
        altered = bytearray(content)
        altered[place] ^= 1
        with pytest.raises(BundleError):
            unpacked(bytes(altered), made)
    with pytest.raises(BundleError, match="something follows"):
        unpacked(content + b"x", made)


def test_a_file_that_is_not_as_registered_is_not_written() -> None:
    for content in (b"tw", b"two!", b"TWO"):
        with pytest.raises(BundleError):
            write_file(io.BytesIO(), sha256(b"two"), 3, io.BytesIO(content))


def test_a_bundle_may_end_without_weights_but_nothing_else_follows() -> None:
    assert not has_weights(io.BytesIO(b""))
    with pytest.raises(BundleError):
        has_weights(io.BytesIO(MAGIC[:-1]))


def test_only_adapters_with_files_of_their_own_are_taken() -> None:
    local, remote = entry("a"), entry("a", uri="hf://org/name")
    assert local_adapters({"l": local, "r": remote}) == (local,)


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "..", "../x", "a/../../x", "a//b", "./a", "a/.", "a\x00b", "x" * 1025, "a\nb"]
)
def test_a_path_that_could_lead_out_of_the_directory_is_refused(path: str) -> None:
    made = adapter("a", "x")
    made.revision.weights.files.append(AdapterFile(path=path, size_bytes=1, sha256=b"d" * 32))
    with pytest.raises(BundleError) as raised:
        local_adapters({"x": made})
    assert raised.value.reason == "ENTRY_INVALID"


def test_a_digest_that_is_not_that_of_the_files_is_refused() -> None:
    """The directory of an adapter is named by it."""
    made = entry("a")
    made.revision.weights.digest = b"d" * 32
    with pytest.raises(BundleError, match="not that of its files"):
        local_adapters({"x": made})
