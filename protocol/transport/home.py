"""The home directory of this process's user, on machines where the user may have none."""

from __future__ import annotations

import getpass
import os
from pathlib import Path


def absolute(path: Path) -> Path:
    """A path that a person gave, absolute, with `~` and `~user` expanded.

    Raises:
        ValueError: That home directory is not known.
    """
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(f"got {path}: that home directory is not known; give an absolute path") from error


def substitutes(home: Path) -> dict[str, str]:
    """Environment variables for a process whose user has no home directory, or no name.

    Libraries put their caches into the home directory and ask for the user's name; some fail
    without. Containers run as users that are in no database, and often with `HOME=/`.

    Args:
        home: A directory to take instead of a home that does not exist or cannot be written. It is
            not created here.

    Returns:
        `HOME`, `USER`, both or none.
    """
    found = {}
    if not _has_home():
        found["HOME"] = str(home)
    if not _has_name():
        found["USER"] = f"uid-{os.getuid()}"
    return found


def _has_home() -> bool:
    try:
        return os.access(Path.home(), os.W_OK | os.X_OK)
    except RuntimeError:
        return False


def _has_name() -> bool:
    try:
        return bool(getpass.getuser())
    except (KeyError, OSError):  # OSError: since Python 3.13
        return False
