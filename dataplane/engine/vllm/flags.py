"""Engine arguments of a model as words for vLLM's parser. Pure.

Each argument is looked up among the flags that this vLLM has, and becomes exactly one flag. What
the flag would not take in full is refused by name: vLLM's parser itself would read an item of a
list as another flag, complete and respell names, and take a word that is left over as the model.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from google.protobuf import json_format, struct_pb2

from dataplane.errors import EngineStartError
from protocol.validation import shorten


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
        """Words that set this flag, and nothing else, to this value.

        Raises:
            EngineStartError: The flag does not take such a value.
        """
        match self.flag.takes, self.value:
            case Takes.NONE, bool():
                return self._switched(on=self.value)
            case Takes.NONE, _:
                raise refused(self.name, f"got {_shown(self.value)}: takes true or false")
            case _, bool():
                raise refused(self.name, f"got {_shown(self.value)}: takes a value")
            case Takes.SEVERAL, list():
                return [self.flag.word, *(self._item(item) for item in self.value)]
            case _, str():
                return [f"{self.flag.word}={self.value}"]
            case _:
                return [f"{self.flag.word}={json.dumps(self.value)}"]

    def check_taken(self, parsed: object) -> None:
        """Check that vLLM's parser understood the value.

        Args:
            parsed: What it made of it.

        Raises:
            EngineStartError: It takes text only, and would use the JSON as text.
        """
        if isinstance(self.value, (dict, list)) and isinstance(parsed, str):
            raise refused(self.name, f"got {_shown(self.value)}: takes text or a number")

    def _switched(self, *, on: bool) -> list[str]:
        if on:
            return [self.flag.word]
        # A flag without an opposite is off unless it is given.
        return [self.flag.opposite] if self.flag.opposite else []

    def _item(self, item: object) -> str:
        word = item if isinstance(item, str) else json.dumps(item)
        if word.startswith("-"):
            raise refused(self.name, f"got the item {shorten(word)}: an item must not begin with '-'")
        return word


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


def _shown(value: object) -> str:
    return shorten(json.dumps(value))
