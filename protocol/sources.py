"""Source URIs of models and adapters. Pure.

Both planes take a `file:///` URI apart here, so that the file one checked is the file that the
other serves.
"""

from __future__ import annotations

FILE_SCHEME = "file://"
HUB_SCHEME = "hf://"

_AMBIGUOUS = "%?#"
"""Some readers decode or cut at these, others do not; so no file URI may hold them."""


def is_file(uri: str) -> bool:
    """Whether `uri` is a `file:///` URI."""
    return uri.startswith(FILE_SCHEME + "/")


def file_path(uri: str) -> str:
    """The absolute path in `file:///absolute/path`, taken literally: nothing is decoded.

    Raises:
        ValueError: not a file URI, a `.` or `..` part, or a character that readers disagree about.
    """
    if not is_file(uri):
        raise ValueError("expected file:///absolute/path")
    path = uri.removeprefix(FILE_SCHEME)
    if any(part in (".", "..") for part in path.split("/")):
        raise ValueError("the path must not have '.' or '..' parts")
    for character in _AMBIGUOUS:
        if character in path:
            raise ValueError(f"the path must not hold {character!r}")
    return path
