"""Lists of models and adapters as SQL: filter, order and cursor.

The condition of a filter selects every row that the filter matches, and perhaps others. No column
has the owner (it is inside the card) or the state (data planes report it), so the caller must check
each row against the filter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, String, Table, and_, case, cast, func, literal, not_, or_, true, tuple_

from controlplane.catalog import domain
from controlplane.listing import filters, paging
from controlplane.listing.listing import NAME, ListQuery, Order
from controlplane.store.schema import models
from controlplane.store.times import to_us

_COLUMNS = {"served_name": "served_name", "create_time": "create_time_us", "update_time": "update_time_us"}

_ESCAPED_NUL = "\\u0000"
"""NUL in JSON."""


def listed(query: Select[Any], table: Table, asked: ListQuery, after: paging.Cursor | None, limit: int) -> Select[Any]:
    """The rows of `query` that match, and perhaps others, in order.

    Args:
        query: SELECT_MODELS or SELECT_ADAPTERS.
        table: `models` or `adapters`, as in `query`.
        asked: The filter and the order.
        after: The cursor to begin after. None: at the beginning.
        limit: Rows at most.
    """
    columns = _sort_columns(table, asked.order)
    query = query.where(_condition(table, asked.wanted, wanted=True))
    if after is not None:
        query = query.where(_after(columns, after))
    return query.order_by(*(column.desc() if descending else column for column, descending in columns)).limit(limit)


def cursor_of(order: Order, resource: domain.Model | domain.Adapter) -> paging.Cursor:
    """The position of a model or an adapter in a list of this order."""
    parts: dict[str, tuple[str | int, ...]] = {
        NAME: (resource.model_id, resource.id) if isinstance(resource, domain.Adapter) else (resource.id,),
        "served_name": (resource.served_name,),
        "create_time": (to_us(resource.create_time),),
        "update_time": (to_us(resource.update_time),),
    }
    return tuple(part for field in order for part in parts[field.name])


_SortColumn = tuple[ColumnElement[Any], bool]
"""A column, and whether it is in descending order."""


def _sort_columns(table: Table, order: Order) -> Sequence[_SortColumn]:
    name_columns = (table.c.id,) if table is models else (table.c.model_id, table.c.id)
    return [
        (column, field.descending)
        for field in order
        for column in (name_columns if field.name == NAME else (table.c[_COLUMNS[field.name]],))
    ]


def _after(columns: Sequence[_SortColumn], cursor: paging.Cursor) -> ColumnElement[bool]:
    parts = [literal(part, column.type) for (column, _), part in zip(columns, cursor, strict=True)]
    if len({descending for _, descending in columns}) == 1:
        # One comparison of rows: a database can use an index for it.
        here, there = tuple_(*(column for column, _ in columns)), tuple_(*parts)
        return here < there if columns[0][1] else here > there
    beyond = [
        column < part if descending else column > part
        for (column, descending), part in zip(columns, parts, strict=True)
    ]
    equal = [column == part for (column, _), part in zip(columns, parts, strict=True)]
    first = columns[0][0] <= parts[0] if columns[0][1] else columns[0][0] >= parts[0]
    # The first condition follows from the others. It is there because a database can use an index
    # for it.
    return and_(first, or_(*(and_(*equal[:index], later) for index, later in enumerate(beyond))))


def _condition(table: Table, node: filters.Filter, *, wanted: bool) -> ColumnElement[bool]:
    """True for every row for which `node` is `wanted`, and perhaps for more."""
    match node:
        case filters.Comparison():
            return _comparison(table, node, wanted=wanted)
        case filters.Not(operand):
            return _condition(table, operand, wanted=not wanted)
        case filters.And(operands) | filters.Or(operands):
            conditions = [_condition(table, operand, wanted=wanted) for operand in operands]
            # Not (a and b) is (not a) or (not b).
            joined = and_ if isinstance(node, filters.And) == wanted else or_
            return joined(*conditions) if conditions else true()


def _comparison(table: Table, comparison: filters.Comparison, *, wanted: bool) -> ColumnElement[bool]:
    signed: Callable[[ColumnElement[bool]], ColumnElement[bool]] = (lambda condition: condition) if wanted else not_
    pattern = comparison.pattern
    match comparison.field:
        case filters.LABELS:
            value = table.c.labels[comparison.key].as_string()
            found = signed(and_(value.is_not(None), _matches(value, pattern)))
            # PostgreSQL extracts no text from JSON with a NUL anywhere in it.
            odd = cast(table.c.labels, String).contains(_ESCAPED_NUL, autoescape=True)
            return case((odd, true()), else_=found)
        case "served_name":
            return signed(_matches(table.c.served_name, pattern))
        case "model_id":
            return signed(_matches(table.c.id if table is models else table.c.model_id, pattern))
        case "adapter_id":
            return signed(_matches(table.c.id, pattern))
    return true()


def _matches(value: ColumnElement[Any], pattern: filters.Pattern) -> ColumnElement[bool]:
    """`pattern.matches(value)`. Without LIKE, which ignores case in SQLite."""
    text, length = pattern.text, len(pattern.text)
    if not (pattern.open_start or pattern.open_end):
        return value == text
    if not text:
        return true()
    if pattern.open_start and pattern.open_end:
        return func.replace(value, text, "") != value
    if pattern.open_start:
        # For a value shorter than `text` this yields fewer characters, so it is not equal.
        return func.substr(value, func.length(value) - (length - 1)) == text
    return func.substr(value, 1, length) == text
