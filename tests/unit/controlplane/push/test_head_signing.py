"""Signing heads: once for each snapshot, and again with other keys."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broadsheet.v1 import snapshot_service_pb2 as pb
from controlplane import errors
from controlplane.catalog.convert import position_to_proto
from controlplane.catalog.domain import Head, Position
from controlplane.push.head_signing import CACHED_HEADS_MAX, HeadSigner, signing_keys
from protocol.signing.heads import parse_head, verify_head
from protocol.transport.key_files import KeyFiles, read_signer
from tests.signing import private_key, verifier, write_private_keys

COMMIT_TIME = datetime(2026, 11, 29, 12, 0, 0, 123456, tzinfo=UTC)


def head(revision: int = 7) -> Head:
    position = Position(store_uid="store", revision=revision, digest=b"d" * 32)
    return Head(position=position, entry_count=3, commit_time=COMMIT_TIME)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_private_keys(tmp_path / "signing.pem", 1)


@pytest.fixture
def heads(keys: Path) -> HeadSigner:
    return HeadSigner(KeyFiles(keys, read_signer))


def test_a_signed_head_says_what_was_committed_and_when(heads: HeadSigner) -> None:
    signed = heads.signed(head())
    assert signed is not None
    content = signed.SerializeToString()
    assert verify_head(verifier(1), content, position_to_proto(head().position), 3)
    assert parse_head(content)[1].commit_time.ToDatetime(tzinfo=UTC) == COMMIT_TIME


def test_a_head_is_signed_once_for_all_streams(heads: HeadSigner) -> None:
    assert heads.signed(head()) is heads.signed(head())


def test_few_signed_heads_are_kept(heads: HeadSigner) -> None:
    first = heads.signed(head(0))
    for revision in range(1, CACHED_HEADS_MAX + 1):
        heads.signed(head(revision))
    assert heads.signed(head(CACHED_HEADS_MAX)) is heads.signed(head(CACHED_HEADS_MAX))
    assert heads.signed(head(0)) is not first


def test_only_an_intent_of_that_snapshot_gets_its_head(heads: HeadSigner) -> None:
    def intent(revision: int) -> pb.SyncResponse:
        return pb.SyncResponse(intent=pb.Intent(to=position_to_proto(head(revision).position)))

    assert heads.add_to(intent(7), head(7)).intent.HasField("signed_head")
    assert not heads.add_to(intent(8), head(7)).intent.HasField("signed_head")
    assert heads.add_to(pb.SyncResponse(commit=pb.Commit()), head(7)) == pb.SyncResponse(commit=pb.Commit())


def test_without_keys_nothing_is_signed() -> None:
    heads = HeadSigner(None)
    assert heads.signed(head()) is None
    intent = pb.SyncResponse(intent=pb.Intent(to=position_to_proto(head().position)))
    assert not heads.add_to(intent, head()).intent.HasField("signed_head")


async def test_other_keys_sign_from_then_on_and_the_head_is_announced_again(keys: Path, heads: HeadSigner) -> None:
    announced = asyncio.Event()
    following = asyncio.create_task(heads.follow(announced.set, interval_s=0.001))
    heads.signed(head())
    keys.write_text("half a k")  # noqa: ASYNC240  # a file of a few bytes
    await asyncio.sleep(0.02)
    assert heads.signer is not None
    assert heads.signer.key_ids == (private_key(1).public.id,)
    assert not announced.is_set()
    write_private_keys(keys, 1, 2)
    await asyncio.wait_for(announced.wait(), 10)
    signed = heads.signed(head())
    assert signed is not None
    assert len(signed.signatures) == 2
    following.cancel()


@dataclass
class _Settings:
    signing_keys_path: Path
    signing_keys: Path | None = None
    sign: bool = True


def test_the_first_start_makes_a_key_for_its_owner_alone_and_the_second_takes_it(tmp_path: Path) -> None:
    settings = _Settings(tmp_path / "data" / "signing-keys")
    made = signing_keys(settings)
    again = signing_keys(settings)
    assert made is not None
    assert again is not None
    assert made.read().key_ids == again.read().key_ids
    (file,) = settings.signing_keys_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_key_is_made_where_the_operator_gives_keys_or_wants_none(tmp_path: Path) -> None:
    given = tmp_path / "given"
    with pytest.raises(errors.SetupError, match="No such file"):
        signing_keys(_Settings(given, signing_keys=given))
    assert not given.exists()
    assert signing_keys(_Settings(given, sign=False)) is None
    assert not given.exists()


def test_a_data_directory_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(errors.SetupError, match="--no-sign"):
        signing_keys(_Settings(tmp_path / "data" / "signing-keys"))
