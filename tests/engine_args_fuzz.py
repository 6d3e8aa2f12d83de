"""Compares engine arguments as Broadsheet passes them to vLLM with vLLM's own reading of them.

`python -m tests.engine_args_fuzz COUNT SEED` runs it with any size (`make fuzz-args`).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import logging
import random
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NoReturn

from google.protobuf import json_format, struct_pb2

from broadsheet.v1 import model_pb2, snapshot_pb2
from controlplane.catalog import engine_args
from dataplane.engine.vllm.engine import read_arguments, serve_parser
from dataplane.errors import EngineStartError
from protocol.engine_args import privileged
from protocol.validation import nul_violations

Args = Mapping[str, Any]

_TEXTS = (
    "", " ", "x", "auto", "None", "null", "true", "7", "-1", "0123", "2k", "1.5M", "2K", "1e5", "0x10", "12_000", "nan",
    "inf", "-inf", "--", "-", "-q", "--model=/other", "--port=1", "--config", "@file", "@/etc/passwd", "a b", "a=b",
    "a,b", "\0", "x\0y", "ü", "💥", "\u2028", "\ufeff{}", "x" * 3000, "{}", "[]", '{"a": 1}', '{"a": 1, "a": 2}',
    '["a", "b"]', '{"a": NaN}', '{"a": 80k}', "{'a': 1}", "[" * 2000, "9" * 400 + ".5k", "9" * 5000, "\u0661",
)  # fmt: skip

_VALUES: Sequence[Any] = (
    *_TEXTS, None, True, False, 0, 1, -1, 7, 0.5, -0.0, 1e5, 1e-7, 1e300, 2**53, 2**60, float("nan"), float("inf"), [],
    [[]], ["x"], ["x", "--model=/other", "-q"], [1, 2], [-1], [1, "a"], [None], [True], [{"a": 1}], [["a"]], {},
    {"a": 1}, {"a": {"b": [None, True, 1.5, "x"]}}, {"a": None}, {"model": "x"}, {"--port": 1},
)  # fmt: skip

_NAMES = (
    "", "-", "--", "--dtype", "-q", "q", "tp", "O", "O3", "dtype=auto", "dtype auto", "a b", "unknown", "rope_scaling",
    "model_tag", "help", "config", "@file", "hf_overrides.", "hf_overrides..a", "hf_overrides.a+", "hf_overrides.a=b",
    "hf_overrides.rope_scaling.type", ".a", "dtype.x", "enforce_eager.x", "ignore_patterns.x", "DTYPE", "ü", "x" * 200,
    "no_dtype", "no_no_enforce_eager", "no_disable_log_stats", "device_memory_utilization", "hf_overrides.revision",
    "compilation_config.zzz", "compilation_config.mode", "dtype\n",
)  # fmt: skip


_DROPPED = "--"
"""A value that argparse drops, even in `--flag=--`."""


class _Refused(Exception):
    """vLLM's own parser refuses a command line."""


@dataclass(slots=True)
class Oracle:
    """vLLM's own parser."""

    parser: argparse.ArgumentParser
    validate: Callable[[argparse.Namespace], None]
    unset: Mapping[str, Any] = field(init=False)
    """What it makes of no arguments."""

    def __post_init__(self) -> None:
        self.unset = vars(self.parser.parse_args([]))

    @classmethod
    def of_vllm(cls) -> Oracle:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        class Parser(FlexibleArgumentParser):  # type: ignore[misc]  # vLLM is not followed by mypy
            def error(self, message: str) -> NoReturn:
                raise _Refused(message)

        return cls(make_arg_parser(Parser()), validate_parsed_serve_args)

    @property
    def actions(self) -> list[argparse.Action]:
        """Its flags with long names."""
        return [
            action for action in self.parser._actions if any(word.startswith("--") for word in action.option_strings)
        ]

    def action(self, key: str) -> argparse.Action | None:
        """The flag that a key names in full."""
        return self.parser._option_string_actions.get("--" + key.partition(".")[0].replace("_", "-"))

    def changes(self, read: argparse.Namespace) -> dict[str, Any]:
        """What differs from no arguments, by destination."""
        return {key: value for key, value in vars(read).items() if repr(value) != repr(self.unset.get(key))}

    def takes(self, args: Args) -> bool:
        """Whether a command line, as vLLM makes of its config files, sets just these values."""
        words = [word for key, value in args.items() for word in self._words(key, value)]
        if any(value == _DROPPED for value in args.values()):
            return False
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # `--help` writes, and exits
                read = self.parser.parse_args(words)
            self.validate(read)
        except (Exception, SystemExit):  # its converters raise many kinds
            return False
        given = {key: value for key, value in args.items() if value is not None}
        actions = {key: self.action(key) for key in given}
        named = {action.dest for action in actions.values() if action is not None}
        return (
            len(named) == len(given)
            and named >= self.changes(read).keys()
            and all(
                agrees(_undotted(key, value), getattr(read, action.dest))
                for key, value in given.items()
                if (action := actions[key]) is not None
            )
        )

    def _words(self, key: str, value: Any) -> list[str]:
        flag = f"--{key}"
        match value:
            case None:
                return []
            case bool():
                return [flag] if value else [f"--no-{key}"]
            case list():
                return [flag, *map(str, value)]
            case dict():
                return [f"{flag}={json.dumps(value)}"]
        return [f"{flag}={value}"]


def _is_long(word: str) -> bool:
    return word.startswith("--")


def _undotted(key: str, value: Any) -> Any:
    for part in reversed(key.split(".")[1:]):
        value = {part: value}
    return not value if key.startswith(("no_", "no-")) and isinstance(value, bool) else value


def agrees(given: Any, read: Any) -> bool:
    """Whether vLLM has read just what was given. How it reads text is its own matter."""
    match given:
        case str():
            return True
        case bool() | None:
            return read is given
        case dict() if is_dataclass(read) and not isinstance(read, type):
            try:
                return repr(type(read)(**given)) == repr(read)
            except ValueError:  # pydantic's
                return False
        case dict():
            return isinstance(read, dict) and json.dumps(read, sort_keys=True) == json.dumps(given, sort_keys=True)
        case list():
            is_list = isinstance(read, list) and len(read) == len(given)
            return is_list and all(agrees(*pair) for pair in zip(given, read, strict=True))
    return isinstance(read, int | float) and not isinstance(read, bool) and read == given


class Mappings:
    """Makes random mappings. The same seed makes the same mappings."""

    def __init__(self, seed: int, oracle: Oracle) -> None:
        self._random = random.Random(seed)
        self._oracle = oracle

    def next(self) -> dict[str, Any]:
        """One to three arguments, most of them of flags that vLLM has."""
        return dict(self._argument() for _ in range(self._random.choice([1, 1, 1, 2, 3])))

    def _argument(self) -> tuple[str, Any]:
        if self._random.random() < 0.15:
            return self._random.choice(_NAMES), self._random.choice(_VALUES)
        action = self._random.choice(self._oracle.actions)
        word = self._random.choice(list(filter(_is_long, action.option_strings)))[2:]
        value = self._fitting(action) if self._random.random() < 0.6 else self._random.choice(_VALUES)
        return self._respelled(word), value

    def _respelled(self, word: str) -> str:
        match self._random.randrange(12):
            case 0:
                return word
            case 1:
                return word[: self._random.randint(1, len(word))]
            case 2:
                return f"{word}.{self._random.choice(['a', 'model', 'revision', 'a.b'])}"
            case 3:
                return word.replace("-", "_", 1)
        return word.replace("-", "_")

    def _fitting(self, action: argparse.Action) -> Any:
        """A value that the flag probably takes."""
        if action.nargs == 0:
            return self._random.random() < 0.5
        if action.choices:
            one: Any = self._random.choice([choice for choice in action.choices if choice is not None])
        elif is_dataclass(action.default):
            names = [item.name for item in fields(action.default)]
            return {self._random.choice(names): self._random.choice([1, 2, True, "auto", [1], None])}
        else:
            one = self._random.choice([1, 8, 0.5, "8", "2k", "x", "a b", {"a": 1}, {"x": [1, "y"]}])
        return [one, one] if action.nargs == "+" else one


@dataclass(slots=True)
class Comparison:
    """Compares the verdicts of both planes with vLLM's, and keeps what cannot be explained."""

    oracle: Oracle
    parser: argparse.ArgumentParser
    """For Broadsheet's own reading."""
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)

    def compare(self, args: Args) -> None:
        """Compare one mapping."""
        try:
            struct = json_format.ParseDict(dict(args), struct_pb2.Struct())
        except json_format.ParseError:
            struct = _with_floats(args)
        given = _as_json(struct)
        why = _registry_refusal(struct)
        read = None
        if not why:
            try:
                read = read_arguments(_entry(struct), self.parser)
            except EngineStartError as error:
                why = f"engine: {error}"
            except Exception as error:
                self.wrong.append(f"{type(error).__name__} {error}: {given!r:.300}")
                return
        if read is not None:
            self.outcomes["accepted"] += 1
            self._check_accepted(given, struct, read)
        elif why in RULES:
            self.outcomes[why] += 1
        elif self.oracle.takes(given):
            self.wrong.append(f"refused ({why}), and vLLM takes it: {given!r:.300}")
        else:
            self.outcomes["refused by both"] += 1

    def _check_accepted(self, given: Args, struct: struct_pb2.Struct, read: argparse.Namespace) -> None:
        changes = {key: value for key, value in self.oracle.changes(read).items() if key not in _OWN}
        named = set()
        for key, value in given.items():
            action = self.oracle.action(key)
            if action is None:
                self.wrong.append(f"accepted, and vLLM has no such flag: {given!r:.300}")
                return
            named.add(action.dest)
            if not self._is_read(action, _undotted(key, value), getattr(read, action.dest), given):
                self.wrong.append(f"{key} became {getattr(read, action.dest)!r:.200}: {given!r:.300}")
        if not changes.keys() <= named:
            self.wrong.append(f"sets {changes.keys() - named} too: {given!r:.300}")
        if not any(privileged(struct, ())) and any(privileged(_texts_of(changes), ())):
            self.wrong.append(f"privileged under another name: {given!r:.300}")

    def _is_read(self, action: argparse.Action, value: Any, read: Any, given: Args) -> bool:
        if value == _DROPPED:
            return read in (value, [value])
        if isinstance(value, str):
            flag = next(filter(_is_long, action.option_strings))
            alone = self.oracle.parser.parse_args([f"{flag}={value}"])
            return repr(getattr(alone, action.dest)) == repr(read)
        if action.dest == "optimization_level":
            return bool(str(value) == read)  # vLLM makes a number of it later
        if action.nargs == "+" and not isinstance(value, list):
            value = [value]  # a lone value is a list of one
        if isinstance(value, dict) and sum(self.oracle.action(key) is action for key in given) > 1:
            return True  # dotted keys are merged, which has tests of its own
        return agrees(value, read)


_OWN = {"model", "served_model_name", "allowed_media_domains"}
"""Destinations that Broadsheet sets, in every model."""

RULES: Mapping[str, str] = {
    "reserved": "Broadsheet sets it itself, under the full name or an abbreviation",
    "null": "a mapping with null says nothing; NaN and infinity are no JSON",
    "name": "the name is no flag without dashes, or is given in two spellings",
    "NUL": "PostgreSQL cannot store it, in any field",
    "revision": "a number for a revision is a mistake, also below a flag whose JSON has no types",
}
"""Refusals of what vLLM may take, each with its reason."""


def _registry_refusal(struct: struct_pb2.Struct) -> str:
    """The rule by which the control plane refuses arguments. Empty: it takes them."""
    if nul_violations(struct):
        return "NUL"
    for violation in engine_args.malformed(struct):
        if "no values of an argument" in violation.description:
            return "null"
        if "it takes text" in violation.description:
            key = violation.field.partition('"')[2].rpartition('"')[0]
            return "revision" if "." in key else "text"
        return "name"
    return "reserved" if engine_args.reserved(struct) else ""


def _entry(struct: struct_pb2.Struct) -> snapshot_pb2.ModelEntry:
    entry = snapshot_pb2.ModelEntry(name="models/m", served_name="public")
    entry.revision.spec.source.uri = "hf://org/name"
    entry.revision.spec.engine.kind = model_pb2.Engine.KIND_VLLM
    entry.revision.spec.engine.args.CopyFrom(engine_args.normalised(struct))
    return entry


def _with_floats(args: Args) -> struct_pb2.Struct:
    """The mapping with NaN and infinity, which JSON does not have."""
    struct = struct_pb2.Struct()
    struct.update(dict(args))
    return struct


def _as_json(struct: struct_pb2.Struct) -> Any:
    """What a Struct says, with whole numbers as such."""

    def plain(value: Any) -> Any:
        match value:
            case float() if value.is_integer():
                return int(value)
            case struct_pb2.Struct():
                return {key: plain(item) for key, item in value.items()}
            case struct_pb2.ListValue():
                return [plain(item) for item in value]
        return value

    return plain(struct)


def _texts_of(changes: Mapping[str, Any]) -> struct_pb2.Struct:
    """The changes that are text, or lists of text."""
    struct = struct_pb2.Struct()
    struct.update({key: value for key, value in changes.items() if isinstance(value, str | list | bool)})
    return struct


def fuzz(oracle: Oracle, *, count: int, seed: int) -> Comparison:
    """Compare `count` mappings."""
    comparison = Comparison(oracle, serve_parser())
    mappings = Mappings(seed, oracle)
    for _ in range(count):
        comparison.compare(mappings.next())
    return comparison


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1_000_000)
    logging.disable()
    warnings.simplefilter("ignore")
    began_s = time.monotonic()
    comparison = fuzz(Oracle.of_vllm(), count=count, seed=seed)
    counts = ", ".join(f"{number} {outcome}" for outcome, number in comparison.outcomes.most_common())
    sys.stdout.write(f"seed {seed}, {time.monotonic() - began_s:.0f} s: {counts}\n")
    wrong = comparison.wrong
    sys.stdout.write(f"{len(wrong)} are not explained\n" + "".join(f"  {line}\n" for line in wrong[:20]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
