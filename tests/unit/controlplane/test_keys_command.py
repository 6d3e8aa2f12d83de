"""`broadsheet controlplane keys`: from the first key to the end of a rotation."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane import __main__ as program
from controlplane import errors, keys_command
from protocol.signing.keys import parse_public_keys
from protocol.transport.key_files import read_private_keys
from tests.signing import private_key, write_private_keys


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


class Keys:
    """The command, on a data directory."""

    def __init__(self, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self._capsys = capsys

    def __call__(self, *arguments: str) -> str:
        assert program.main(["keys", *arguments, "--data-dir", str(self.data_dir)]) == 0
        return self._capsys.readouterr().out

    def refused(self, *arguments: str) -> str:
        assert program.main(["keys", *arguments, "--data-dir", str(self.data_dir)]) == program.EXIT_SETUP
        return self._capsys.readouterr().err

    @property
    def ids(self) -> list[str]:
        return [line.split()[0] for line in self("list").splitlines()]


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Keys:
    return Keys(tmp_path / "data", capsys)


def test_a_rotation_from_the_first_key_to_the_second(keys: Keys) -> None:
    assert "made key" in keys("generate")
    (old,) = keys.ids
    shown = keys("rotate")
    assert f"rotate --remove {old}" in shown or "rotate --remove" in shown
    assert len(keys.ids) == 2
    public = parse_public_keys(keys("public").encode())
    assert {key.id for key in public} == set(keys.ids)
    assert old in keys("rotate", "--remove", old)
    assert old not in keys.ids
    assert len(keys.ids) == 1


def test_the_hint_of_a_rotation_names_the_old_key(keys: Keys) -> None:
    keys("generate")
    (old,) = keys.ids
    assert f"keys rotate --remove {old}" in keys("rotate")


def test_private_keys_are_never_shown(keys: Keys) -> None:
    keys("generate")
    assert "PRIVATE" not in keys("public") + keys("list")


def test_the_last_key_is_not_removed(keys: Keys) -> None:
    keys("generate")
    assert "one key only" in keys.refused("rotate", "--remove", keys.ids[0])
    assert len(keys.ids) == 1


def test_an_unknown_key_is_not_removed(keys: Keys) -> None:
    keys("generate")
    keys("rotate")
    refused = keys.refused("rotate", "--remove", "0123456789abcdef")
    assert all(key_id in refused for key_id in (*keys.ids, "0123456789abcdef"))


def test_a_second_first_key_is_refused(keys: Keys) -> None:
    keys("generate")
    assert "keys rotate" in keys.refused("generate")


@pytest.mark.parametrize("arguments", [(), ("show",), ("--help",), ("rotate", "--remove")])
def test_what_is_no_command_is_refused(keys: Keys, arguments: tuple[str, ...]) -> None:
    with pytest.raises(errors.SetupError):
        keys_command.run("keys", arguments)


def test_there_is_nothing_to_list_or_rotate_before_the_first_key(keys: Keys) -> None:
    for action in ("list", "public", "rotate"):
        assert "No such file" in keys.refused(action)


def test_a_key_in_a_file_with_others_is_not_removed(keys: Keys, tmp_path: Path) -> None:
    file = write_private_keys(tmp_path / "both.pem", 1, 2)
    refused = keys.refused("rotate", "--remove", private_key(1).public.id, "--signing-keys", str(file))
    assert "several keys" in refused
    assert len(read_private_keys(file)) == 2
    assert "directory of their own" in keys.refused("rotate", "--signing-keys", str(file))
