"""Key files on disk: modes, reloading, and new keys."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from protocol.signing.keys import KEYS_MAX
from protocol.transport.key_files import KeyFiles, KeyFilesError, make_private_key, read_signer, read_verifier
from tests.signing import private_key, write_private_keys, write_public_keys


def _ids(*seeds: int) -> tuple[str, ...]:
    return tuple(private_key(seed).public.id for seed in seeds)


def test_all_keys_of_a_file_or_a_directory_sign(tmp_path: Path) -> None:
    assert read_signer(write_private_keys(tmp_path / "a.pem", 1, 2)).key_ids == _ids(1, 2)
    write_private_keys(tmp_path / "b.pem", 3)
    (tmp_path / ".c.pem").write_text("not read")
    (tmp_path / "notes.txt").write_text("not read")
    assert read_signer(tmp_path).key_ids == _ids(1, 2, 3)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o601, 0o777])
def test_a_private_key_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    file = write_private_keys(tmp_path / "a.pem", 1)
    file.chmod(mode)
    with pytest.raises(KeyFilesError, match=f"mode {mode:04o}"):
        read_signer(file)


def test_whom_to_trust_cannot_be_changed_by_others(tmp_path: Path) -> None:
    file = write_public_keys(tmp_path / "trusted.pem", 1)
    for mode in (0o644, 0o444, 0o664):
        file.chmod(mode)
        assert read_verifier(file).key_ids == _ids(1)
    file.chmod(0o646)
    with pytest.raises(KeyFilesError, match="whom to trust"):
        read_verifier(file)


def test_a_directory_that_others_can_put_keys_into_is_refused(tmp_path: Path) -> None:
    write_private_keys(tmp_path / "a.pem", 1)
    tmp_path.chmod(0o777)
    with pytest.raises(KeyFilesError, match="others can put keys into it"):
        read_signer(tmp_path)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_a_group_may_read_a_private_key_as_kubernetes_mounts_it(tmp_path: Path, mode: int) -> None:
    file = write_private_keys(tmp_path / "a.pem", 1)
    file.chmod(mode)
    assert read_signer(file).key_ids == _ids(1)


def test_a_group_that_could_change_a_private_key_cannot_afterwards(tmp_path: Path) -> None:
    file = write_private_keys(tmp_path / "a.pem", 1)
    file.chmod(0o660)
    keys = KeyFiles(file, read_signer)
    assert keys.read().key_ids == _ids(1)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert keys.changed() is None


def test_a_missing_file_and_an_empty_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFilesError, match="No such file"):
        read_signer(tmp_path / "none.pem")
    with pytest.raises(KeyFilesError, match="got 0 private keys"):
        read_signer(tmp_path)


def test_a_key_in_two_files_and_too_many_keys_are_refused(tmp_path: Path) -> None:
    write_private_keys(tmp_path / "a.pem", 1)
    write_private_keys(tmp_path / "b.pem", 1)
    with pytest.raises(KeyFilesError, match="is there twice"):
        read_signer(tmp_path)
    write_private_keys(tmp_path / "b.pem", *range(2, KEYS_MAX + 2))
    with pytest.raises(KeyFilesError, match=f"got {KEYS_MAX + 1} private keys"):
        read_signer(tmp_path)


def test_a_change_is_read_once(tmp_path: Path) -> None:
    keys = KeyFiles(write_public_keys(tmp_path / "trusted.pem", 1), read_verifier)
    assert keys.read().key_ids == _ids(1)
    assert keys.changed() is None
    write_public_keys(tmp_path / "trusted.pem", 1, 2)
    changed = keys.changed()
    assert changed is not None
    assert changed.key_ids == _ids(1, 2)
    assert keys.changed() is None


def test_a_new_key_in_the_directory_is_a_change(tmp_path: Path) -> None:
    write_private_keys(tmp_path / "a.pem", 1)
    keys = KeyFiles(tmp_path, read_signer)
    keys.read()
    write_private_keys(tmp_path / "b.pem", 2)
    changed = keys.changed()
    assert changed is not None
    assert changed.key_ids == _ids(1, 2)


def test_a_change_that_cannot_be_used_is_said_once_and_heals(tmp_path: Path) -> None:
    file = write_public_keys(tmp_path / "trusted.pem", 1)
    keys = KeyFiles(file, read_verifier)
    keys.read()
    file.unlink()
    with pytest.raises(KeyFilesError, match="No such file"):
        keys.changed()
    assert keys.changed() is None
    changed = KeyFiles(write_public_keys(file, 2), read_verifier).changed()
    assert changed is not None
    assert changed.key_ids == _ids(2)


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    file = write_public_keys(tmp_path / "trusted.pem", 1)

    def read(path: Path) -> object:
        content = read_verifier(path)
        if write_again.pop() == "change":
            write_public_keys(path, 1, 2)
        return content

    write_again = ["", "change"]
    keys = KeyFiles(file, read)
    with pytest.raises(KeyFilesError, match="changed while it was read"):
        keys.read()
    assert keys.changed() is not None


def test_a_new_key_is_for_its_owner_alone_and_signs(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        file = make_private_key(tmp_path / "keys")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert read_signer(tmp_path / "keys").key_ids == (file.stem,)
    assert list(file.parent.iterdir()) == [file]


def test_a_key_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(KeyFilesError, match=r"keys"):
        make_private_key(tmp_path / "keys")
