"""Snapshots as files: what is read and checked, and what every damage leads to."""

from __future__ import annotations

import hashlib
import io

import pytest

from broadsheet.v1 import snapshot_pb2
from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.sync.snapshot_file import write_snapshot
from protocol.bundles.content import (
    MAGIC,
    MESSAGE_BYTES_MAX,
    Bundle,
    BundleError,
    check,
    is_withheld,
    read,
    without_keys,
)
from protocol.bundles.weights import has_weights
from protocol.snapshot_limits import ENTRIES_MAX
from tests.bundle_fuzz import bundle, written
from tests.disk import ONE
from tests.raw import adapter, entry_proto, model, raw
from tests.views import api_key

KEY = raw(api_key("k", "bs-" + "k" * 43))


def _reason(content: bytes) -> str:
    with pytest.raises(BundleError) as raised:
        check(read(io.BytesIO(content)))
    return raised.value.reason


def _sealed(content: bytes) -> bytes:
    """The content with the hash that belongs to it, as whoever alters a file can make it."""
    return content + hashlib.sha256(content).digest()


def test_a_bundle_is_the_same_after_a_file() -> None:
    made = bundle()
    assert read(io.BytesIO(written(made))) == made
    assert check(made).keys() == {entry.ref.name for entry in made.entries}
    assert made.counts == {"ModelEntry": 2, "AdapterEntry": 1, "RouteEntry": 1, "ApiKeyEntry": 1}


def test_a_file_of_a_data_plane_is_a_bundle() -> None:
    """The two parts of the code have one format."""
    file = io.BytesIO()
    write_snapshot(file, ONE)
    found = read(io.BytesIO(file.getvalue()))
    assert found.position == ONE.position.to_proto()
    assert [entry.blob for entry in found.entries] == [entry.blob for entry in ONE.entries]
    assert check(found)
    assert written(found) == file.getvalue()


def test_api_keys_without_content_still_count_for_the_root_digest() -> None:
    whole = bundle()
    shared = Bundle(position=whole.position, entries=without_keys(whole.entries), signed_head=whole.signed_head)
    content = written(shared)
    assert KEY.blob not in content
    found = read(io.BytesIO(content))
    assert found.withheld == 1
    assert check(found).keys() == {entry.ref.name for entry in found.entries if not is_withheld(entry)}


def test_only_api_keys_may_be_without_content() -> None:
    made = bundle()
    entries = [snapshot_pb2.Entry(ref=entry.ref) for entry in made.entries]
    assert _reason(written(Bundle(position=made.position, entries=tuple(entries)))) == "BLOB_DIGEST_MISMATCH"


def test_a_file_that_ends_anywhere_is_refused() -> None:
    content = written(bundle())
    for end in range(0, len(content), 7):
        assert _reason(content[:end]) in ("FORM_INVALID", "HASH_MISMATCH")
    file = io.BytesIO(content + b"x")
    read(file)
    with pytest.raises(BundleError, match="no weights"):
        has_weights(file)


def test_every_changed_byte_is_noticed() -> None:
    content = bytearray(written(bundle()))
    for place in range(0, len(content), 5):
        content[place] ^= 1
        assert _reason(bytes(content))
        content[place] ^= 1


def test_an_altered_entry_is_refused_although_the_hash_fits() -> None:
    made = bundle()
    entries = list(made.entries)
    entries[0] = snapshot_pb2.Entry(ref=entries[0].ref, blob=b"altered")
    altered = Bundle(position=made.position, entries=tuple(entries))
    assert _reason(written(altered)) in ("BLOB_DIGEST_MISMATCH", "ENTRY_INVALID")


def test_a_left_out_or_repeated_entry_is_refused_although_the_hash_fits() -> None:
    made = bundle()
    assert _reason(written(Bundle(position=made.position, entries=made.entries[:-1]))) == "ROOT_DIGEST_MISMATCH"
    twice = (*made.entries, made.entries[-1])
    assert _reason(written(Bundle(position=made.position, entries=twice))) == "FORM_INVALID"


def test_a_reference_to_nothing_is_refused() -> None:
    orphan = bundle(adapter("gone", "x"))
    assert _reason(written(orphan)) == "REFERENCE_MISSING"


def test_an_entry_under_another_name_is_refused() -> None:
    entries = (entry_proto(raw(model("a"), name="models/b")),)
    assert _reason(written(bundle(entries=entries))) == "ENTRY_INVALID"


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"\xff\xff\xff\xff\x0f", "TOO_LARGE"),
        (b"\xff\xff\xff\x7f", "TOO_LARGE"),
        (b"\x7f", "FORM_INVALID"),
        (b"\x01\xff", "ENTRY_INVALID"),
    ],
)
def test_a_length_that_is_not_true_is_refused(rest: bytes, reason: str) -> None:
    assert _reason(_sealed(MAGIC + rest)[: len(MAGIC) + len(rest)]) == reason


@pytest.mark.parametrize("count", [-1, ENTRIES_MAX + 1, 2**62])
def test_a_count_beyond_the_limit_is_refused_before_anything_is_read(count: int) -> None:
    header = pb.Intent(entry_count=count).SerializeToString()
    assert _reason(_sealed(MAGIC + bytes((len(header),)) + header)) == "TOO_LARGE"


def test_the_largest_entry_is_within_the_limit() -> None:
    entry = snapshot_pb2.Entry(
        ref=snapshot_pb2.EntryRef(name="n" * 256, type="t" * 256, digest=b"d" * 32), blob=b"b" * 256 * 1024
    )
    assert entry.ByteSize() <= MESSAGE_BYTES_MAX
