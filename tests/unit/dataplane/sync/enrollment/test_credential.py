"""A data plane keeps the credential that the control plane knows, whatever happens in between."""

from __future__ import annotations

import itertools
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from dataplane.sync.enrollment.credential import EnrolledCredential, EnrollmentError, EnrollmentRefused
from dataplane.sync.enrollment.kept import CredentialFiles, KeptCredentialError
from protocol.enrollment import credential_hash

TOKEN = "bs-enroll-first"  # of this test


class ControlPlane:
    """What redeems tokens. It spends each for the first credential."""

    def __init__(self) -> None:
        self.spent: dict[str, bytes] = {}
        self.calls = 0
        self.lost_answers = 0
        self.is_away = False

    async def redeem(self, token: str, hashed: bytes) -> None:
        self.calls += 1
        if self.is_away:
            raise EnrollmentError("UNAVAILABLE")
        if self.spent.setdefault(token, hashed) != hashed:
            raise EnrollmentRefused("spent")
        if self.lost_answers:
            self.lost_answers -= 1
            raise EnrollmentError("UNAVAILABLE: the answer was lost")


class World:
    """A data directory, a token file, and starts of a data plane."""

    def __init__(self, directory: Path) -> None:
        self.data_dir = directory / "data"
        self.token_file = directory / "token"
        self.token_file.write_text(f"{TOKEN}\n")
        self.control_plane = ControlPlane()
        self._secrets = itertools.count()

    def start(self, data_plane_id: str = "gpu-1", *, with_flag: bool = True) -> EnrolledCredential:
        return EnrolledCredential(
            CredentialFiles(self.data_dir),
            data_plane_id=data_plane_id,
            token_file=self.token_file if with_flag else None,
            redeem=self.control_plane.redeem,
            new_secret=lambda: f"secret-{next(self._secrets)}",
        )

    @property
    def files(self) -> set[str]:
        return {path.name for path in (self.data_dir / "credential").iterdir()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_token_is_exchanged_once_and_restarts_use_what_was_kept(world: World) -> None:
    first = await world.start().get()
    assert first is not None
    assert world.control_plane.spent == {TOKEN: credential_hash(first)}
    assert await world.start().get() == first
    world.token_file.unlink()
    assert await world.start().get() == first
    assert await world.start(with_flag=False).get() == first
    assert world.control_plane.calls == 1
    assert world.files == {"current.json"}


async def test_without_a_token_and_a_kept_credential_there_is_none(world: World) -> None:
    assert await world.start(with_flag=False).get() is None


async def test_only_this_user_can_read_what_is_kept(world: World) -> None:
    await world.start().get()
    directory = world.data_dir / "credential"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "current.json").stat().st_mode) == 0o600
    (directory / "current.json").chmod(0o604)
    with pytest.raises(KeptCredentialError, match="others can read"):
        await world.start().get()


async def test_a_lost_answer_is_asked_for_again_with_the_same_credential(world: World) -> None:
    world.control_plane.lost_answers = 2
    for _ in range(2):
        with pytest.raises(EnrollmentError):
            await world.start().get()
        assert world.files == {"pending.json"}
    credential = await world.start().get()
    assert credential is not None
    assert world.control_plane.spent == {TOKEN: credential_hash(credential)}


async def test_a_disk_that_is_full_spends_no_token(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("dataplane.sync.enrollment.kept.write_file", full)
        with pytest.raises(KeptCredentialError, match="No space left"):
            await world.start().get()
    assert world.control_plane.calls == 0
    assert await world.start().get() is not None


async def test_a_disk_that_fills_after_the_exchange_loses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: CredentialFiles, *_: Any) -> None:
        raise KeptCredentialError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(CredentialFiles, "accept_pending", full)
        with pytest.raises(KeptCredentialError):
            await world.start().get()
    credential = await world.start().get()
    assert credential is not None
    assert world.control_plane.spent == {TOKEN: credential_hash(credential)}


async def test_a_lost_data_directory_needs_another_token(world: World) -> None:
    await world.start().get()
    (world.data_dir / "credential" / "current.json").unlink()
    with pytest.raises(EnrollmentRefused, match="spent"):
        await world.start().get()


async def test_a_new_token_renews_the_credential(world: World) -> None:
    first = await world.start().get()
    world.token_file.write_text("bs-enroll-second")
    running = world.start()
    second = await running.get()
    assert second != first
    assert await running.get() == second
    assert world.control_plane.calls == 2


async def test_the_credential_of_before_is_used_when_the_new_token_is_refused(world: World) -> None:
    first = await world.start().get()
    world.token_file.write_text("bs-enroll-second")
    world.control_plane.spent["bs-enroll-second"] = b"somebody else"
    running = world.start()
    for _ in range(3):
        assert await running.get() == first
    assert world.control_plane.calls == 2, "what is refused is not asked again by this process"


async def test_no_credential_is_made_up_while_the_control_plane_is_away(world: World) -> None:
    world.control_plane.is_away = True
    with pytest.raises(EnrollmentError, match="UNAVAILABLE"):
        await world.start().get()


async def test_the_data_directory_of_another_data_plane_is_refused(world: World) -> None:
    await world.start("gpu-1").get()
    with pytest.raises(EnrollmentError, match="credential of gpu-1, and this is gpu-2"):
        await world.start("gpu-2").get()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"\xff",
        b'{"data_plane": "gpu-1", "token_hash": "", "credential": "another secret"}',
        b'{"data_plane": "gpu-1", "token_hash": "", "credential": 7}',
        b'{"data_plane": "gpu-1", "token_hash": "", "credential": "bs-data-plane-a\\nb"}',
        b"x" * 5000,
        b"[" * 4000,
    ],
)
async def test_a_damaged_file_is_named_and_not_quoted(world: World, content: bytes) -> None:
    await world.start().get()
    (world.data_dir / "credential" / "current.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"current\.json") as caught:
        await world.start().get()
    assert isinstance(caught.value, KeptCredentialError)
    assert "another secret" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"two words", b"x" * 20_000])
async def test_a_token_file_that_cannot_be_used_is_named(world: World, content: bytes | None) -> None:
    world.token_file.unlink()
    if content is not None:
        world.token_file.write_bytes(content)
    with pytest.raises(EnrollmentError, match=str(world.token_file)):
        await world.start().get()
    assert world.control_plane.calls == 0


async def test_what_is_kept_is_what_the_next_release_can_read(world: World) -> None:
    credential = await world.start().get()
    kept = json.loads((world.data_dir / "credential" / "current.json").read_text())
    assert kept.keys() == {"data_plane", "token_hash", "credential"}
    assert kept["credential"] == credential
    assert TOKEN not in json.dumps(kept)
