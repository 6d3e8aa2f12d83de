"""The generated tokens: who may read them, and where they are left."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from controlplane import errors
from controlplane.access.generated_tokens import GeneratedTokens


@pytest.mark.parametrize("mode", [0o640, 0o660])
def test_a_group_that_a_volume_gave_access_loses_it_again(tmp_path: Path, mode: int) -> None:
    GeneratedTokens(tmp_path)
    file = tmp_path / "admin_token"
    token = file.read_text()
    file.chmod(mode)
    GeneratedTokens(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text() == token


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_a_token_that_others_could_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    GeneratedTokens(tmp_path)
    (tmp_path / "admin_token").chmod(mode)
    with pytest.raises(errors.SetupError, match="delete it to generate another"):
        GeneratedTokens(tmp_path)


def test_without_a_home_no_token_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    with GeneratedTokens(tmp_path).left_for("127.0.0.1:1"):
        assert {file.name for file in tmp_path.iterdir()} == {"admin_token", "data-plane_token"}
