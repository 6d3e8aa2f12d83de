"""Engine arguments of a model as words for the flags of vLLM's parser. Pure.

Each argument is looked up among the flags that this vLLM has, and sets exactly one. The words go
to the flag itself, not through the parser: that would read an item of a list as another flag,
complete and respell names, and take a word that is left over as the model. What the flag would not
take in full is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from google.protobuf import json_format, struct_pb2

from dataplane.errors import EngineStartError
from protocol.validation import shorten

_NUMBERS_AS_TEXT = frozenset({"optimization_level"})
"""Flags of text which vLLM 0.32 itself makes numbers of."""


class Takes(Enum):
    """How many words follow a flag."""

    NONE = auto()
    ONE = auto()
    SEVERAL = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One spelling of a flag of vLLM's parser."""

    word: str
    """`--enable-prefix-caching`, `--no-enable-prefix-caching`."""
    destination: str
    """What it sets: the same for all spellings of a flag."""
    takes: Takes
    opposite: str | None = None
    """The spelling that switches off what this one switches on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One argument of a model, with the flag that it sets."""

    name: str
    value: object
    """As JSON has it; keys of dotted names are merged into it."""
    flag: Flag

    @property
    def words(self) -> list[str]:
        """What follows the flag: one word, or for a flag of several, one for each item of a list.

        Raises:
            EngineStartError: The flag is switched on and off, and the value is neither.
        """
        match self.flag.takes, self.value:
            case Takes.NONE, bool():
                return []
            case Takes.NONE, _:
                raise refused(self.name, f"got {_shown(self.value)}: takes true or false")
            case Takes.SEVERAL, list():
                return [_word(item) for item in self.value]
            case _:
                return [_word(self.value)]

    @property
    def spelling(self) -> str | None:
        """The flag; if it is switched off, its opposite. None: it is off unless it is given."""
        return self.flag.opposite if self.value is False and self.flag.takes is Takes.NONE else self.flag.word

    def check_taken(self, parsed: object) -> None:
        """Check that vLLM understood the value.

        Args:
            parsed: What its flag made of the words.

        Raises:
            EngineStartError: It is another value, such as the text of a number or of JSON.
        """
        given = self.value
        if type(given) is int and self.flag.destination in _NUMBERS_AS_TEXT:
            return
        if isinstance(parsed, list) and not isinstance(given, list | str):
            given = [given]
        if not _is_same(given, parsed):
            raise refused(self.name, f"got {_shown(self.value)}: takes {_allowed(parsed)}")


def arguments(args: struct_pb2.Struct, flags: Mapping[str, Flag], taken: Collection[str]) -> list[Argument]:
    """The arguments of a model, each with its flag.

    Args:
        args: What the model's spec says.
        flags: All flags of vLLM's parser, by their words.
        taken: Destinations that Broadsheet sets itself.

    Raises:
        EngineStartError: An argument is unknown, given twice, taken, or is no JSON
            (ENGINE_ARGS_INVALID).
    """
    try:
        values = json_format.MessageToDict(args)
    except ValueError as error:  # a number that JSON does not have
        raise EngineStartError(f"engine arguments: {error}", reason="ENGINE_ARGS_INVALID") from error
    found: dict[str, Argument] = {}
    for name, value in _merged(values).items():
        if value is None:
            continue
        flag = flags.get("--" + name.replace("_", "-"))
        if flag is None:
            raise refused(name, "vLLM has no such argument")
        if flag.destination in taken:
            raise refused(name, "Broadsheet sets it itself")
        if flag.destination in found:
            raise refused(name, f"the same argument as {found[flag.destination].name}")
        found[flag.destination] = Argument(name=name, value=value, flag=flag)
    return list(found.values())


def refused(name: str, why: str) -> EngineStartError:
    """The error for an argument that vLLM would not take in full."""
    return EngineStartError(f"engine argument {shorten(name)}: {why}", reason="ENGINE_ARGS_INVALID")


def _merged(values: Mapping[str, object]) -> dict[str, object]:
    """`values` with `a.b: 1` as `a: {b: 1}`. Keys after the first dot keep their spelling."""
    merged: dict[str, object] = {}
    for name in sorted(values):  # `a` comes before `a.b`
        flag, *keys = name.split(".")
        value: object = _integral(values[name])
        for key in reversed(keys):
            value = {key: value}
        merged[flag] = _joined(merged[flag], value, name) if flag in merged else value
    return merged


def _joined(first: object, second: object, name: str) -> object:
    if not isinstance(first, dict) or not isinstance(second, dict):
        raise refused(name, "given twice, with different values")
    joined = dict(first)
    for key, value in second.items():
        joined[key] = _joined(joined[key], value, name) if key in joined else value
    return joined


def _integral(value: object) -> object:
    """`value` with whole numbers as integers: a protobuf Struct has only floating-point numbers."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case Mapping():
            return {key: _integral(item) for key, item in value.items()}
        case list():
            return [_integral(item) for item in value]
    return value


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _is_same(given: object, parsed: object) -> bool:
    """Whether vLLM read a value as it was given. How it reads text is its own matter."""
    match given:
        case str():
            return True
        case bool() | None:
            return parsed is given
        case int() | float():
            return isinstance(parsed, int | float) and not isinstance(parsed, bool) and parsed == given
        case list() if isinstance(parsed, list):
            return len(parsed) == len(given) and all(_is_same(*pair) for pair in zip(given, parsed, strict=True))
        case dict() if isinstance(parsed, dict):
            return given.keys() == parsed.keys() and all(_is_same(item, parsed[key]) for key, item in given.items())
    # The class of a configuration: vLLM refuses fields that it does not have.
    return isinstance(given, dict) and not isinstance(parsed, str | int | float | list | None)


def _allowed(parsed: object) -> str:
    """What a flag takes that made this of another value."""
    if isinstance(parsed, list):
        return "a list of text"
    return "text; put it in quotes if it is meant as text" if isinstance(parsed, str) else "another type of value"


def _shown(value: object) -> str:
    return shorten(json.dumps(value))
