"""Filters of lists: a subset of AIP-160, parsed into a tree and matched against resources. Pure.

    filter      = [conjunction]
    conjunction = disjunction { "AND" disjunction }        (OR binds tighter, as in AIP-160)
    disjunction = negation { "OR" negation }
    negation    = ["NOT" | "-"] ( "(" conjunction ")" | comparison )
    comparison  = field ( "=" | "!=" | ":" ) value

`ListModelsRequest.filter` documents fields, operators and values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from broadsheet.v1 import status_pb2
from controlplane import errors

COMPARISONS_MAX = 32
"""Comparisons in a filter. Each is a condition of an SQL query that is tested on every row."""

DEPTH_MAX = 16
"""Nested parentheses. The parser is recursive."""

_GOT_CHARACTERS_MAX = 40
"""Characters of the caller's text that an error repeats."""

LABELS = "labels"
STATE = "state"

LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
"""The same pattern as in the rules of the protos."""

STATE_PREFIX = "RESOURCE_STATE_"

STATES = tuple(
    name.removeprefix(STATE_PREFIX)
    for name, number in status_pb2.ResourceState.items()
    if number != status_pb2.RESOURCE_STATE_UNSPECIFIED
)
"""The values of `state`."""

_ADAPTER_FIELDS = {"owner": "owner", "card.owned_by": "owner", "served_name": "served_name", STATE: STATE}
_MODEL_ID = {"model_id": "model_id"}

MODEL_FIELDS: Mapping[str, str] = MappingProxyType({**_MODEL_ID, **_ADAPTER_FIELDS})
"""Field names and aliases in filters of models → the field. Labels are not among them."""

ADAPTER_FIELDS: Mapping[str, str] = MappingProxyType({**_MODEL_ID, "adapter_id": "adapter_id", **_ADAPTER_FIELDS})
"""The same as MODEL_FIELDS, for adapters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A text, perhaps with a wildcard at either end."""

    text: str
    open_start: bool = False
    """Any text may come before `text`."""
    open_end: bool = False
    """Any text may come after it."""

    def matches(self, value: str) -> bool:
        """Whether `value` has this text."""
        if self.open_start and self.open_end:
            return self.text in value
        if self.open_start:
            return value.endswith(self.text)
        return value.startswith(self.text) if self.open_end else value == self.text


ANYTHING = Pattern(text="", open_start=True, open_end=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Matches when any value of the field matches the pattern."""

    field: str
    """The field, never an alias of it."""
    key: str = ""
    """The key of a label. Empty: the field is not a label."""
    pattern: Pattern


@dataclass(frozen=True, slots=True)
class Not:
    operand: Filter


@dataclass(frozen=True, slots=True)
class And:
    operands: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    operands: tuple[Filter, ...]


Filter = Comparison | Not | And | Or

EVERYTHING = And(())
"""The empty filter."""

Values = Callable[[str, str], Collection[str]]
"""The values of a field (and label key) of a resource.

A state has one value for each state that was reported; a label has one or none.
"""


def matches(wanted: Filter, values: Values) -> bool:
    """Whether a resource with these values matches the filter."""
    match wanted:
        case Comparison():
            return any(wanted.pattern.matches(value) for value in values(wanted.field, wanted.key))
        case Not(operand):
            return not matches(operand, values)
        case And(operands):
            return all(matches(operand, values) for operand in operands)
        case Or(operands):
            return any(matches(operand, values) for operand in operands)


def parse(text: str, fields: Mapping[str, str]) -> Filter:
    """Parse a filter.

    Args:
        text: The filter. The rules in the protos bound its length.
        fields: MODEL_FIELDS or ADAPTER_FIELDS.

    Raises:
        errors.InvalidArgument: It is not a filter. The message gives the position, what was got and
            what is allowed there.
    """
    return _Parser(text, fields).filter()


_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[A-Za-z0-9_./-]+")
_OPERATOR = re.compile(r"!=|[<>=]=|[=:<>~!]")
_BARE = re.compile(r"""(?:[^\s()"'\\]|\\.)+""", re.DOTALL)
_QUOTED = {quote: re.compile(rf"{quote}((?:[^{quote}\\]|\\.)*){quote}", re.DOTALL) for quote in "\"'"}
_PIECE = re.compile(r"\\(.)|(\*)|([^\\*]+)", re.DOTALL)
_ESCAPABLE = "\\\"'*"
_KEYWORDS = ("AND", "OR", "NOT")


class _Parser:
    """Parses a filter from left to right. Each method parses what it is named after."""

    def __init__(self, text: str, fields: Mapping[str, str]) -> None:
        self._text = text
        self._fields = fields
        self._at = 0
        self._depth = 0
        self._comparisons = 0

    def filter(self) -> Filter:
        if "\0" in self._text:
            raise self._wrong("no filter has the character U+0000", self._text.index("\0"))
        self._skip_space()
        if self._at == len(self._text):
            return EVERYTHING
        wanted = self._conjunction()
        if self._at < len(self._text):
            raise self._unexpected("AND, OR or the end")
        return wanted

    def _conjunction(self) -> Filter:
        operands = [self._disjunction()]
        while self._keyword("AND"):
            operands.append(self._disjunction())
        return operands[0] if len(operands) == 1 else And(tuple(operands))

    def _disjunction(self) -> Filter:
        operands = [self._negation()]
        while self._keyword("OR"):
            operands.append(self._negation())
        return operands[0] if len(operands) == 1 else Or(tuple(operands))

    def _negation(self) -> Filter:
        if self._keyword("NOT") or self._sign("-"):
            return Not(self._operand())
        return self._operand()

    def _operand(self) -> Filter:
        if not self._sign("("):
            return self._comparison()
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._wrong(f"parentheses are deeper than {DEPTH_MAX}", self._at)
        wanted = self._conjunction()
        if not self._sign(")"):
            raise self._unexpected("AND, OR or `)`")
        self._depth -= 1
        return wanted

    def _comparison(self) -> Filter:
        self._comparisons += 1
        if self._comparisons > COMPARISONS_MAX:
            raise self._wrong(f"more than {COMPARISONS_MAX} comparisons", self._at)
        field_at = self._at
        field, key = self._field()
        operator = self._operator()
        if field == LABELS and not key:
            if operator != ":":
                raise self._wrong(
                    f"got `{LABELS} {operator}`; must be `{LABELS}:KEY` or `{LABELS}.KEY {operator} VALUE`", field_at
                )
            key_at = self._at
            return Comparison(field=LABELS, key=self._label_key(self._value(), key_at), pattern=ANYTHING)
        value_at = self._at
        pattern = self._value()
        if operator == ":" and pattern == ANYTHING:
            if field in (LABELS, STATE):
                return Comparison(field=field, key=key, pattern=pattern)
            return Not(Comparison(field=field, pattern=Pattern(text="")))
        if field == STATE:
            pattern = self._state(pattern, value_at)
        comparison = Comparison(field=field, key=key, pattern=pattern)
        return Not(comparison) if operator == "!=" else comparison

    def _field(self) -> tuple[str, str]:
        """The field, and the key if it is a label."""
        start = self._at
        found = _WORD.match(self._text, start)
        if found is None or found.group() in _KEYWORDS:
            raise self._unexpected(f"a field: {self._allowed_fields()}")
        name = found.group()
        self._at = found.end()
        if name == f"{LABELS}.":
            quoted = self._quoted()
            if quoted is None:
                raise self._unexpected("the key of a label")
            self._skip_space()
            return LABELS, self._label_key(self._pattern(quoted, start), start)
        self._skip_space()
        if name.startswith(f"{LABELS}."):
            return LABELS, self._label_key(Pattern(text=name.removeprefix(f"{LABELS}.")), start)
        if name == LABELS:
            return LABELS, ""
        if name not in self._fields:
            raise self._wrong(f"got `{_shown(name)}`; must be a field: {self._allowed_fields()}", start)
        return self._fields[name], ""

    def _label_key(self, pattern: Pattern, at: int) -> str:
        if pattern.open_start or pattern.open_end or not LABEL_KEY.fullmatch(pattern.text):
            raise self._wrong(
                f"got `{self._since(at)}`; the key of a label has 1 to 63 of A-Z, a-z, 0-9, `.`, `_`, `/` and `-`, "
                "with a letter or digit at both ends, and no wildcard",
                at,
            )
        return pattern.text

    def _operator(self) -> str:
        found = _OPERATOR.match(self._text, self._at)
        if found is None or found.group() not in ("=", "!=", ":"):
            raise self._unexpected("`=`, `!=` or `:`")
        self._at = found.end()
        self._skip_space()
        return found.group()

    def _value(self) -> Pattern:
        start = self._at
        content = self._quoted()
        if content is None:
            found = _BARE.match(self._text, start)
            if found is None or found.group() in _KEYWORDS:
                raise self._unexpected("a value; put it into quotes when it is empty, a keyword or has spaces")
            content = found.group()
            self._at = found.end()
        self._skip_space()
        return self._pattern(content, start)

    def _quoted(self) -> str | None:
        """The text between the quotes that begin here, still escaped. None: no quote is here."""
        quote = self._text[self._at : self._at + 1]
        if quote not in _QUOTED:
            return None
        found = _QUOTED[quote].match(self._text, self._at)
        if found is None:
            raise self._wrong(f"nothing ends the text that {quote} begins", self._at)
        self._at = found.end()
        return found.group(1)

    def _pattern(self, content: str, at: int) -> Pattern:
        pieces: list[str] = []
        """Pieces of plain text. An empty piece stands for a wildcard."""
        for escaped, wildcard, plain in _PIECE.findall(content):
            if escaped and escaped not in _ESCAPABLE:
                raise self._wrong(f"got `\\{escaped}`; `\\` must come before one of {' '.join(_ESCAPABLE)}", at)
            pieces.append("" if wildcard else escaped or plain)
        first = 1 if pieces and not pieces[0] else 0
        last = len(pieces) - 1 if len(pieces) > first and not pieces[-1] else len(pieces)
        if not all(pieces[first:last]):
            raise self._wrong(
                f"got `{_shown(content)}`; `*` must be the first or the last character; `\\*` is the character itself",
                at,
            )
        alone = pieces == [""]
        return Pattern(text="".join(pieces), open_start=first == 1, open_end=alone or last < len(pieces))

    def _state(self, pattern: Pattern, at: int) -> Pattern:
        name = pattern.text.removeprefix(STATE_PREFIX)
        if pattern.open_start or pattern.open_end or name not in STATES:
            raise self._wrong(f"got `{self._since(at)}`; a state is one of {', '.join(STATES)}", at)
        return Pattern(text=name)

    def _keyword(self, keyword: str) -> bool:
        found = _WORD.match(self._text, self._at)
        if found is None or found.group() != keyword:
            return False
        self._at = found.end()
        self._skip_space()
        return True

    def _sign(self, sign: str) -> bool:
        if not self._text.startswith(sign, self._at):
            return False
        self._at += len(sign)
        self._skip_space()
        return True

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None, "the pattern also matches no space"
        self._at = found.end()

    def _since(self, at: int) -> str:
        return _shown(self._text[at : self._at].strip())

    def _allowed_fields(self) -> str:
        return ", ".join((*self._fields, f"{LABELS}.KEY"))

    def _unexpected(self, expected: str) -> errors.InvalidArgument:
        next_token = re.match(r"\w+|\W{1,2}", self._text[self._at :])
        got = f"`{_shown(next_token.group().strip())}`" if next_token is not None else "the end"
        return self._wrong(f"got {got}; must be {expected}", self._at)

    def _wrong(self, description: str, at: int) -> errors.InvalidArgument:
        return errors.InvalidArgument.of_field(
            "filter", f"at character {at + 1}: {description}", errors.Reason.INVALID_FILTER
        )


def _shown(text: str) -> str:
    return text if len(text) <= _GOT_CHARACTERS_MAX else f"{text[: _GOT_CHARACTERS_MAX - 1]}…"
