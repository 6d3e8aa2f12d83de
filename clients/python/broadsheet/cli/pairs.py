"""Repeatable flags of the form KEY=VALUE."""

from __future__ import annotations

from collections.abc import Sequence

import typer

from broadsheet.specs import PairParser


def parse_label(text: str) -> tuple[str, object]:
    """`team=search` as a pair.

    Raises:
        ValueError: There is no `=`.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"got {text!r}; expected KEY=VALUE")
    return key, value


def key_values(texts: Sequence[str] | None, flag: str, parse: PairParser) -> dict[str, object]:
    """The pairs of a repeatable flag.

    Args:
        texts: What was given, in order. None: nothing.
        flag: Name of the flag, for errors.
        parse: Reads one pair.

    Raises:
        typer.BadParameter: A pair cannot be read, or a key is given twice.
    """
    pairs: dict[str, object] = {}
    for text in texts or ():
        try:
            key, value = parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint=flag) from error
        if key in pairs:
            raise typer.BadParameter(f"{key} is given twice", param_hint=flag)
        pairs[key] = value
    return pairs


def labels(texts: Sequence[str] | None) -> dict[str, str]:
    """The labels that `--label` gives."""
    return {key: str(value) for key, value in key_values(texts, "--label", parse_label).items()}
