"""Files that a source names are opened without waiting, and only if they are regular."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from protocol.transport.source_files import open_regular, read_limited

pytestmark = pytest.mark.timeout(10)


def test_a_regular_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"12345")
    assert read_limited(file, 5) == b"12345"
    with pytest.raises(ValueError, match=r"config\.json is larger than 4 bytes"):
        read_limited(file, 4)


@pytest.mark.parametrize("kind", ["pipe", "device", "directory", "link to a pipe"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.json"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "directory":
            path.mkdir()
        case _:
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to("pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_limited(path, 100)


def test_a_link_is_followed_unless_it_must_not_be(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"x")
    (tmp_path / "link").symlink_to("blob")
    assert read_limited(tmp_path / "link", 1) == b"x"
    with pytest.raises(OSError) as caught:  # noqa: PT011  # its text is the system's
        open_regular(tmp_path / "link", follow_link=False)
    assert caught.value.errno == errno.ELOOP
