"""Ids of requests."""

from __future__ import annotations

import uuid

import pytest

from dataplane.openai.exchange.request_ids import RequestIds


def test_new_ids_are_random_uuids_and_differ() -> None:
    ids = RequestIds()
    made = [ids.of(None) for _ in range(2000)]
    assert len(set(made)) == len(made)
    for one in made:
        parsed = uuid.UUID(one)
        assert (str(parsed), parsed.version, parsed.variant) == (one, 4, uuid.RFC_4122)
    for place in (0, 7, 15, 20, 35):  # every digit is drawn, but for the version
        assert len({one[place] for one in made}) == 16
    assert {one[19] for one in made} == set("89ab")


@pytest.mark.parametrize("given", [b"a", b"req-1/2", b"~" * 128])
def test_a_short_printable_id_is_kept(given: bytes) -> None:
    assert RequestIds().of(given) == given.decode()


@pytest.mark.parametrize("given", [b"", b"~" * 129, b"a b", b"a\n", b"\x7f", "ü".encode()])
def test_any_other_id_is_replaced(given: bytes) -> None:
    assert uuid.UUID(RequestIds().of(given)).version == 4
