"""Snapshots that are collected by comparing their manifests with what is held."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadsheet.v1 import snapshot_service_pb2 as pb
from dataplane.snapshot.change import Change, changed
from dataplane.snapshot.policy import Limits
from dataplane.snapshot.rejection import (
    BLOB_DIGEST_MISMATCH,
    BLOB_TOO_LARGE,
    ENTRIES_NOT_ORDERED,
    ENTRY_COUNT_MISMATCH,
    ENTRY_NOT_WANTED,
    SNAPSHOT_TOO_LARGE,
    Rejection,
)
from dataplane.snapshot.snapshot import Position, RawEntry
from dataplane.sync.stream.manifest import ManifestAssembler
from dataplane.sync.transitions import Input
from tests.raw import CATALOG, entry_proto, model, position, raws

BASE = position(CATALOG)
DEFAULT_LIMITS = Limits()
HELD_BYTES = sum(len(entry.name) + len(entry.type) + len(entry.blob) for entry in CATALOG)


def refs(entries: tuple[RawEntry, ...]) -> pb.Chunk:
    return pb.Chunk(refs=[entry_proto(entry).ref for entry in entries])


def chunk(*entries: RawEntry) -> pb.Chunk:
    return pb.Chunk(entries=[entry_proto(entry) for entry in entries])


def assembler(
    entries: tuple[RawEntry, ...],
    held: tuple[RawEntry, ...] = CATALOG,
    *,
    base: Position | None = BASE,
    store_uid: str = BASE.store_uid,
    limits: Limits = DEFAULT_LIMITS,
) -> ManifestAssembler:
    at = position(entries, 2, store_uid=store_uid)
    return ManifestAssembler(at, len(entries), limits, base=base, held=held)


def collected(made: ManifestAssembler, entries: tuple[RawEntry, ...], refs_per_chunk: int) -> list[RawEntry]:
    """Send a snapshot as the control plane does; returns the entries that were sent."""
    sent: list[RawEntry] = []
    for begin in range(0, len(entries), refs_per_chunk):
        part = entries[begin : begin + refs_per_chunk]
        assert made.add(refs(part)) is None
        wanted = [entry for entry in part if entry.digest in made.want.digests]
        assert made.taken(refs(part)) is (Input.REFS_LACKED if wanted else Input.REFS_HELD)
        for number, entry in enumerate(wanted, start=1):
            assert made.add(chunk(entry)) is None
            assert made.taken(chunk(entry)) is (Input.CHUNK_LAST if number == len(wanted) else Input.CHUNK)
        sent += wanted
    return sent


CATALOGS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(1, 2)), unique_by=lambda item: item[0]).map(
    lambda items: raws(*(model(name, number=number) for name, number in items))
)


@settings(max_examples=200, deadline=None)
@given(held=CATALOGS, entries=CATALOGS, refs_per_chunk=st.integers(1, 4))
def test_only_what_is_not_held_is_sent_and_the_change_leads_to_the_snapshot(
    held: tuple[RawEntry, ...], entries: tuple[RawEntry, ...], refs_per_chunk: int
) -> None:
    made = assembler(entries, held, base=position(held))
    sent = collected(made, entries, refs_per_chunk)
    assert sent == [entry for entry in entries if entry not in held]
    change = made.complete()
    assert isinstance(change, Change)
    assert change.base == position(held)
    assert changed(held, change) == entries


def test_without_a_snapshot_in_service_all_entries_are_collected() -> None:
    made = assembler(CATALOG, (), base=None)
    assert collected(made, CATALOG, 2) == list(CATALOG)
    assert made.complete() == CATALOG


def test_a_snapshot_of_another_store_is_collected_as_a_whole() -> None:
    later = raws(model("a", number=2), model("b"))
    made = assembler(later, store_uid="other")
    assert [entry.name for entry in collected(made, later, 5)] == ["models/a"]
    assert made.complete() == later


def test_entries_with_the_same_digest_are_wanted_together() -> None:
    first = CATALOG[0]
    second = RawEntry(name="models/zz", type=first.type, digest=first.digest, blob=first.blob)
    made = assembler((first, second), (first,))
    assert made.add(refs((first, second))) is None
    assert list(made.want.digests) == [first.digest]
    assert made.add(chunk(first, second)) is None
    assert made.taken(chunk(second)) is Input.CHUNK_LAST


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        (refs((CATALOG[1], CATALOG[0])), ENTRIES_NOT_ORDERED),
        (refs((*CATALOG, RawEntry(name="z", type="t", digest=bytes(32), blob=b""))), ENTRY_COUNT_MISMATCH),
        (refs((RawEntry(name="a", type="t", digest=b"short", blob=b""),)), BLOB_DIGEST_MISMATCH),
        (chunk(CATALOG[0]), ENTRY_NOT_WANTED),
        (pb.Chunk(removed=["a"]), ENTRY_COUNT_MISMATCH),
        (pb.Chunk(refs=refs(CATALOG[:1]).refs, entries=chunk(CATALOG[0]).entries), ENTRY_COUNT_MISMATCH),
    ],
)
def test_a_damaged_manifest_is_refused(damaged: pb.Chunk, reason: str) -> None:
    rejection = assembler(CATALOG).add(damaged)
    assert rejection is not None
    assert rejection.reason == reason


def test_what_comes_is_what_was_asked_for_in_order() -> None:
    other = model("b", number=7)
    for wrong in (CATALOG[1], raws(other)[0]):
        made = assembler(CATALOG, ())
        assert made.add(refs(CATALOG)) is None
        rejection = made.add(chunk(wrong))
        assert rejection is not None
        assert rejection.reason == ENTRY_NOT_WANTED


@pytest.mark.parametrize(
    ("held", "limits", "reason"),
    [
        (CATALOG, Limits(total_bytes_max=HELD_BYTES - 1), SNAPSHOT_TOO_LARGE),
        ((), Limits(total_bytes_max=HELD_BYTES - 1), SNAPSHOT_TOO_LARGE),
        ((), Limits(blob_bytes_max=20), BLOB_TOO_LARGE),
    ],
)
def test_limits_hold_while_a_manifest_arrives(held: tuple[RawEntry, ...], limits: Limits, reason: str) -> None:
    made = assembler(CATALOG, held, limits=limits)
    rejection = made.add(refs(CATALOG)) or made.add(chunk(*CATALOG))
    assert rejection is not None
    assert rejection.reason == reason
    within = assembler(CATALOG, CATALOG, limits=Limits(total_bytes_max=HELD_BYTES))
    assert within.add(refs(CATALOG)) is None


def test_a_number_of_refs_other_than_announced_is_refused() -> None:
    made = assembler(CATALOG)
    assert made.add(refs(CATALOG[:-1])) is None
    content = made.complete()
    assert isinstance(content, Rejection)
    assert content.reason == ENTRY_COUNT_MISMATCH
