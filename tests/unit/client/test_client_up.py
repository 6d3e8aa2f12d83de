"""`broadsheet up` on machines where the user has no home directory."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from broadsheet.cli.up.local import StartError, default_data_dir, give_home, prepare_data_dir
from broadsheet.demo.prepare_model import default_cache_dir
from protocol.transport import local_tokens


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process, as a user whom only the kernel knows."""
    variables = ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME")
    for name in (*variables, "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # so that it is restored whatever the code under test sets
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    return monkeypatch


def test_without_a_home_the_data_directory_is_asked_for(nobody: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartError, match=r"no home directory\n  hint: give --data-dir DIR"):
        default_data_dir()


def test_without_a_home_tokens_and_the_demos_model_are_kept_in_the_data_directory(
    nobody: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    screen = Console(file=io.StringIO(), width=200)
    give_home(tmp_path, screen)
    assert f"HOME={tmp_path}/home is taken instead" in screen.file.getvalue()  # type: ignore[attr-defined]
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "broadsheet"
    tokens = local_tokens.directory("127.0.0.1:8300")
    assert tokens is not None
    assert tokens.is_relative_to(tmp_path / "home")
    assert os.access(tmp_path / "home", os.W_OK)


def test_a_home_that_is_there_is_kept(nobody: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nobody.setenv("HOME", str(tmp_path))
    nobody.setenv("USER", "ada")
    give_home(tmp_path / "data", Console(file=io.StringIO()))
    assert (os.environ["HOME"], (tmp_path / "data").exists()) == (str(tmp_path), False)


def test_a_data_directory_that_cannot_be_made_is_named(nobody: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=f"--data-dir: got {tmp_path}/file/data: Not a directory"):
        prepare_data_dir(tmp_path / "file" / "data")
    with pytest.raises(StartError, match="--data-dir: got ~/data: that home directory is not known"):
        prepare_data_dir(Path("~/data"))
    nobody.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(StartError, match=f"--data-dir: got {tmp_path}: this user cannot write there"):
        prepare_data_dir(tmp_path)
