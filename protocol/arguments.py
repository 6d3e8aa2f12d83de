"""Command lines and environments that are not UTF-8. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def not_utf8(arguments: Sequence[str], environment: Mapping[str, str], prefix: str) -> str | None:
    """Which argument or variable is not UTF-8. None: all are.

    The operating system passes bytes, and Python keeps those that are not UTF-8 as lone surrogates,
    which neither a log nor a database takes.

    Args:
        arguments: Of the command line.
        environment: All variables.
        prefix: Only variables that begin with it are looked at.

    Returns:
        Its place and the name of its flag or variable, but not its value, which may be a secret.
    """
    previous = ""
    for position, argument in enumerate(arguments, 1):
        if not _is_utf8(argument):
            flag = argument.partition("=")[0] if argument.startswith("-") else previous
            named = f" ({flag})" if flag.startswith("-") and _is_utf8(flag) else ""
            return f"argument {position}{named}"
        previous = argument
    for name, value in environment.items():
        if name.startswith(prefix) and not _is_utf8(name + value):
            return f"environment variable {name.encode(errors='replace').decode()}"
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
