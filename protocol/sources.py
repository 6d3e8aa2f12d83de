"""Source URIs of models and adapters. Pure.

Both planes parse `file:///` URIs with it, so that the data plane serves the file that the control
plane checked.
"""

from __future__ import annotations

FILE_SCHEME = "file://"
HUB_SCHEME = "hf://"

_AMBIGUOUS = "%?#"
"""Some parsers decode or cut at these characters and some do not, so no file URI may have them."""


def is_file(uri: str) -> bool:
    """Whether `uri` is a `file:///` URI."""
    return uri.startswith(FILE_SCHEME + "/")


def file_path(uri: str) -> str:
    """The absolute path in `file:///absolute/path`, taken literally: nothing is decoded.

    Raises:
        ValueError: It is not a file URI, or has a `.` or `..` part or an ambiguous character.
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
