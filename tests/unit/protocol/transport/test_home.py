"""Users without a home directory, or without an entry in the user database."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import pytest

from protocol.transport.home import absolute, substitutes

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process, as a user whom only the kernel knows."""
    for name in ("HOME", *NAMES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    return monkeypatch


def test_a_user_with_home_and_name_keeps_both(nobody: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nobody.setenv("HOME", str(tmp_path))
    nobody.setenv("USER", "ada")
    assert substitutes(Path("/substitute")) == {}


def test_a_user_without_either_gets_both(nobody: pytest.MonkeyPatch) -> None:
    missing = substitutes(Path("/substitute"))
    assert missing == {"HOME": "/substitute", "USER": f"uid-{os.getuid()}"}
    for name, value in missing.items():
        nobody.setenv(name, value)
    assert (getpass.getuser(), Path.home()) == (missing["USER"], Path("/substitute"))


def test_a_home_that_does_not_exist_or_cannot_be_written_is_replaced(
    nobody: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nobody.setenv("USER", "ada")
    nobody.setenv("HOME", str(tmp_path / "missing"))
    assert substitutes(Path("/substitute")) == {"HOME": "/substitute"}
    nobody.setenv("HOME", str(tmp_path))
    nobody.setattr(os, "access", lambda path, mode: False)  # root, who may run the tests, can write anywhere
    assert substitutes(Path("/substitute")) == {"HOME": "/substitute"}


def test_a_tilde_is_the_home_directory(nobody: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nobody.setenv("HOME", str(tmp_path))
    assert absolute(Path("~/ca.pem")) == tmp_path / "ca.pem"
    assert absolute(Path("ca.pem")) == Path.cwd() / "ca.pem"


@pytest.mark.parametrize("path", ["~/ca.pem", "~no-such-user/ca.pem"])
def test_a_tilde_without_a_home_is_refused(nobody: pytest.MonkeyPatch, path: str) -> None:
    with pytest.raises(ValueError, match=f"got {path}: that home directory is not known; give an absolute path"):
        absolute(Path(path))
