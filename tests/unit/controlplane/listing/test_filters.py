"""The filter language: what it reads, what it means, and what it says about text that is no
filter."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane import errors
from controlplane.listing import filters
from controlplane.listing.filters import (
    ADAPTER_FIELDS,
    ANYTHING,
    MODEL_FIELDS,
    And,
    Comparison,
    Filter,
    Not,
    Or,
    Pattern,
)

PROD = Comparison(field="labels", key="env", pattern=Pattern(text="prod"))
FAILED = Comparison(field="state", pattern=Pattern(text="FAILED"))
ANN = Comparison(field="owner", pattern=Pattern(text="ann"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", filters.EVERYTHING),
        (" \t\n", filters.EVERYTHING),
        ("labels.env=prod", PROD),
        ("labels.env : 'prod'", PROD),
        ('labels."env" = "prod"', PROD),
        ("labels.a.b/c-d = x", Comparison(field="labels", key="a.b/c-d", pattern=Pattern(text="x"))),
        ('labels."a/b.c":x', Comparison(field="labels", key="a/b.c", pattern=Pattern(text="x"))),
        ("labels.env:*", Comparison(field="labels", key="env", pattern=ANYTHING)),
        ("labels:env", Comparison(field="labels", key="env", pattern=ANYTHING)),
        ('labels.env = ""', Comparison(field="labels", key="env", pattern=Pattern(text=""))),
        ("state = FAILED", FAILED),
        ("state = RESOURCE_STATE_FAILED", FAILED),
        ("state:*", Comparison(field="state", pattern=ANYTHING)),
        ("owner = ann", ANN),
        ("card.owned_by = ann", ANN),
        ("owner != ann", Not(ANN)),
        ("owner:*", Not(Comparison(field="owner", pattern=Pattern(text="")))),
        ("served_name = org/M:a@1", Comparison(field="served_name", pattern=Pattern(text="org/M:a@1"))),
        ("served_name = a*", Comparison(field="served_name", pattern=Pattern(text="a", open_end=True))),
        ("served_name = '*a'", Comparison(field="served_name", pattern=Pattern(text="a", open_start=True))),
        (r"owner = \*a\*", Comparison(field="owner", pattern=Pattern(text="*a*"))),
        (r"""owner = "a\"\\ 'b" """, Comparison(field="owner", pattern=Pattern(text="a\"\\ 'b"))),
        ("NOT state = FAILED", Not(FAILED)),
        ("-state = FAILED", Not(FAILED)),
        ("NOT(state = FAILED)", Not(FAILED)),
        ("-(NOT state=FAILED)", Not(Not(FAILED))),
        ("labels.env=prod AND owner=ann", And((PROD, ANN))),
        ("labels.env=prod AND owner=ann OR state=FAILED", And((PROD, Or((ANN, FAILED))))),
        ("(labels.env=prod AND owner=ann)OR state=FAILED", Or((And((PROD, ANN)), FAILED))),
    ],
)
def test_a_filter_is_parsed_into_a_tree(text: str, expected: Filter) -> None:
    assert filters.parse(text, MODEL_FIELDS) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "color = red",
            "at character 1: got `color`; must be a field: model_id, owner, card.owned_by, served_name, state",
        ),
        ("adapter_id = a", "at character 1: got `adapter_id`; must be a field"),
        ("owner = ann AND", "at character 16: got the end; must be a field"),
        ("owner = ann and state = READY", "at character 13: got `and`; must be AND, OR or the end"),
        ("owner = ann state = READY", "at character 13: got `state`; must be AND, OR or the end"),
        ("(owner = ann", "at character 13: got the end; must be AND, OR or `)`"),
        ("owner = ann)", "at character 12: got `)`; must be AND, OR or the end"),
        ("owner > ann", "at character 7: got `>`; must be `=`, `!=` or `:`"),
        ("owner == ann", "at character 7: got `==`; must be `=`, `!=` or `:`"),
        ("owner", "at character 6: got the end; must be `=`, `!=` or `:`"),
        ("owner =", "at character 8: got the end; must be a value"),
        ("owner = AND", "at character 9: got `AND`; must be a value; put it into quotes"),
        ("owner = 'ann", "at character 9: nothing ends the text that ' begins"),
        ("owner = a*b", "at character 9: got `a*b`; `*` must be the first or the last character"),
        (r"owner = a\b", r"at character 9: got `\b`; `\` must come before one of"),
        (
            "state = STARTED",
            "at character 9: got `STARTED`; a state is one of DEPLOYING, READY, IDLE, DEGRADED, FAILED,",
        ),
        ("state = RE*", "at character 9: got `RE*`; a state is one of"),
        ("labels = prod", "at character 1: got `labels =`; must be `labels:KEY` or `labels.KEY = VALUE`"),
        ("labels.-x = a", "at character 1: got `labels.-x`; the key of a label has 1 to 63"),
        ("labels:*", "at character 8: got `*`; the key of a label"),
        ("labels. = a", "at character 8: got `=`; must be the key of a label"),
        ("NOT NOT owner = ann", "at character 5: got `NOT`; must be a field"),
        ("owner = a\0", "at character 10: no filter has the character U+0000"),
        ("x" * 100 + " = y", f"at character 1: got `{'x' * 39}…`; must be a field"),
        ("(" * 17 + "owner = ann" + ")" * 17, "at character 18: parentheses are deeper than 16"),
        (" OR ".join(["owner = a"] * 33), "at character 417: more than 32 comparisons"),
    ],
)
def test_the_error_of_an_invalid_filter_says_where_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        filters.parse(text, MODEL_FIELDS)
    assert caught.value.reason == errors.Reason.INVALID_FILTER
    (violation,) = caught.value.violations
    assert violation.field == "filter"
    assert violation.description.startswith(message)


@pytest.mark.parametrize(
    ("text", "matching"),
    [
        ("ab", ["ab"]),
        ("ab*", ["ab", "abc"]),
        ("*ab", ["ab", "xab"]),
        ("*ab*", ["ab", "abc", "xab", "xabc"]),
        ("*", ["", "a", "ab", "abc", "xab", "xabc", "AB"]),
        ("''", [""]),
    ],
)
def test_which_values_a_pattern_matches(text: str, matching: list[str]) -> None:
    wanted = filters.parse(f"owner = {text}", MODEL_FIELDS)
    values = ["", "a", "ab", "abc", "xab", "xabc", "AB"]

    def found(value: str) -> bool:
        return filters.matches(wanted, lambda field, key: (value,))

    assert list(filter(found, values)) == matching


def test_filters_at_their_bounds_are_allowed() -> None:
    filters.parse("(" * 16 + "owner = ann" + ")" * 16, MODEL_FIELDS)
    filters.parse(" OR ".join(["(owner = a)"] * 32), MODEL_FIELDS)


# Text that resembles a filter gets further into the parser than random text.
FRAGMENTS = st.lists(
    st.sampled_from(
        [*" ()'\"\\*=:-", " AND ", " OR ", "NOT ", "!=", "<", "owner", "state", "labels", "labels.", "READY", "a", "ü"]
    ),
    max_size=30,
).map("".join)


@given(st.text(max_size=60) | FRAGMENTS)
def test_any_text_is_a_filter_or_is_refused_with_a_position(text: str) -> None:
    try:
        wanted = filters.parse(text, ADAPTER_FIELDS)
    except errors.InvalidArgument as error:
        (violation,) = error.violations
        assert violation.description.startswith("at character ")
    else:
        assert filters.matches(wanted, lambda field, key: ()) in (True, False)


TEXT = st.text("ab*\\'\" (", max_size=3)
PATTERNS = st.builds(Pattern, text=TEXT, open_start=st.booleans(), open_end=st.booleans()).filter(
    # A pattern without text is written as a single star, whichever end is open.
    lambda pattern: bool(pattern.text) or pattern.open_start == pattern.open_end
)
COMPARISONS: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Comparison, field=st.sampled_from(["owner", "served_name"]), pattern=PATTERNS),
    st.builds(Comparison, field=st.just("labels"), key=st.sampled_from(["a", "b/c.d"]), pattern=PATTERNS),
    st.builds(
        Comparison, field=st.just("state"), pattern=st.sampled_from(filters.STATES).map(lambda s: Pattern(text=s))
    ),
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: And(tuple(parts))),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: Or(tuple(parts))),
    ),
    max_leaves=8,
)


def written(wanted: Filter) -> str:
    """The filter as text, with all possible parentheses."""
    match wanted:
        case Comparison(field=field, key=key, pattern=pattern):
            text = "".join(f"\\{character}" if character in "\\\"'*" else character for character in pattern.text)
            dotted_key = f'."{key}"' if key else ""
            stars = ("*" if pattern.open_start else "", "*" if pattern.open_end else "")
            return f'{field}{dotted_key} = "{stars[0]}{text}{stars[1]}"'
        case Not(operand):
            return f"NOT ({written(operand)})"
        case And(operands):
            return " AND ".join(f"({written(operand)})" for operand in operands)
        case Or(operands):
            return " OR ".join(f"({written(operand)})" for operand in operands)


def naive(wanted: Filter, resource: Mapping[tuple[str, str], Collection[str]]) -> bool:
    """Whether the filter matches, by the simplest algorithm."""
    if isinstance(wanted, Comparison):
        pattern, held = wanted.pattern, resource.get((wanted.field, wanted.key), ())
        return any(
            value == before + pattern.text + after
            for value in held
            for before in ({value[:cut] for cut in range(len(value) + 1)} if pattern.open_start else {""})
            for after in ({value[cut:] for cut in range(len(value) + 1)} if pattern.open_end else {""})
        )
    if isinstance(wanted, Not):
        return not naive(wanted.operand, resource)
    results = [naive(operand, resource) for operand in wanted.operands]
    return False not in results if isinstance(wanted, And) else True in results


VALUES = st.lists(st.text("ab*\\ ", max_size=4), max_size=1)
RESOURCES = st.fixed_dictionaries(
    {
        ("owner", ""): VALUES,
        ("served_name", ""): VALUES,
        ("labels", "a"): VALUES,
        ("labels", "b/c.d"): VALUES,
        ("state", ""): st.lists(st.sampled_from(filters.STATES), max_size=2),
    }
)


@settings(max_examples=200)
@given(FILTERS, RESOURCES)
def test_a_parsed_filter_matches_as_the_naive_reading_does(
    wanted: Filter, resource: Mapping[tuple[str, str], list[str]]
) -> None:
    read = filters.parse(written(wanted), MODEL_FIELDS)
    assert filters.matches(read, lambda field, key: resource[field, key]) == naive(wanted, resource)
