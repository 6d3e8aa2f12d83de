"""The tokens file: what is accepted, and errors that do not repeat a secret."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from controlplane import errors
from controlplane.access.tokens_file import TokensFile
from tests.stream.access_world import sha256, write_tokens

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HASH = sha256("the token")


def opened(file: Path, *, at: datetime = NOW) -> TokensFile:
    return TokensFile(file, now=lambda: at)


async def test_a_token_is_accepted_until_it_expires(tmp_path: Path) -> None:
    entry = {"name": "ci", "role": "publisher", "sha256": HASH, "expire_time": "2026-01-02T00:00:00Z"}
    file = write_tokens(tmp_path / "tokens", [entry])
    tokens = opened(file)
    principal = await tokens.principal_of("the token")
    assert principal is not None
    assert (principal.name, principal.role, principal.authentication) == ("ci", "publisher", "token")
    assert await tokens.principal_of("another") is None
    assert await tokens.principal_of(HASH) is None
    with pytest.raises(errors.Unauthenticated) as caught:
        await opened(file, at=NOW + timedelta(days=1)).principal_of("the token")
    assert caught.value.reason == errors.Reason.TOKEN_EXPIRED


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"role": "king"}, "tokens.0.role"),
        ({"sha256": "secret in the wrong place"}, "tokens.0.sha256"),
        ({"name": ""}, "tokens.0.name"),
        ({"data_plane": "gpu-1"}, "data_plane is for the role data-plane"),
        ({"role": "data-plane", "data_plane": ""}, "tokens.0.data_plane"),
        ({"expire_time": "2026-01-01T00:00:00"}, "timezone"),
        ({"password": "x"}, "password"),
    ],
)
def test_errors_omit_the_content_of_an_entry(tmp_path: Path, entry: dict[str, str], expected: str) -> None:
    good = {"name": "ci", "role": "viewer", "sha256": HASH}
    with pytest.raises(errors.SetupError) as caught:
        opened(write_tokens(tmp_path / "tokens", [good | entry]))
    assert expected in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_expired_token_still_keeps_others_from_its_data_plane(tmp_path: Path) -> None:
    entry = {"name": "gpu-1", "role": "data-plane", "data_plane": "gpu-1", "sha256": HASH}
    other = {"name": "any", "role": "data-plane", "sha256": sha256("x")}
    file = write_tokens(tmp_path / "tokens", [entry | {"expire_time": "2020-01-01T00:00:00Z"}, other])
    assert opened(file).bound_ids() == {"gpu-1"}


@pytest.mark.parametrize("twice", ["name", "sha256"])
def test_names_and_hashes_are_unique(tmp_path: Path, twice: str) -> None:
    first = {"name": "a", "role": "viewer", "sha256": HASH}
    other = {"name": "b", "role": "viewer", "sha256": sha256("x")} | {twice: first[twice]}
    with pytest.raises(errors.SetupError, match=f"two tokens have the {twice}"):
        opened(write_tokens(tmp_path / "tokens", [first, other]))


@pytest.mark.parametrize("mode", [0o602, 0o606, 0o666])
def test_a_file_that_others_can_change_is_refused(tmp_path: Path, mode: int) -> None:
    file = write_tokens(tmp_path / "tokens", [])
    file.chmod(mode)
    with pytest.raises(errors.SetupError, match="chmod 600"):
        opened(file)


@pytest.mark.parametrize("mode", [0o620, 0o660])
def test_the_group_may_change_no_file_beside_its_owner(tmp_path: Path, mode: int) -> None:
    """A volume with a Kubernetes fsGroup gives the group access to every file, at each mount."""
    file = write_tokens(tmp_path / "tokens", [])
    file.chmod(mode)
    opened(file)
    assert file.stat().st_mode & 0o777 == mode & ~0o020


@pytest.mark.parametrize("mode", [0o440, 0o444, 0o644])
def test_others_may_read_the_hashes_as_in_a_mounted_secret(tmp_path: Path, mode: int) -> None:
    file = write_tokens(tmp_path / "tokens", [])
    file.chmod(mode)
    opened(file)
    assert file.stat().st_mode & 0o777 == mode


def test_an_empty_document_after_the_tokens_is_passed_over(tmp_path: Path) -> None:
    file = write_tokens(tmp_path / "tokens", [])
    file.write_text(f"---\n{file.read_text()}---\n")
    opened(file)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.SetupError, match="nowhere: No such file"):
        opened(tmp_path / "nowhere")


def test_a_file_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    file = write_tokens(tmp_path / "tokens", [])
    file.write_text("tokens:\n  - {")
    with pytest.raises(errors.SetupError, match=r"not YAML \(line"):
        opened(file)
