"""Statements in the terms of a driver, for those that run too often to go through SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Dialect, Executable, Row, Select
from sqlalchemy.engine.result import result_tuple
from sqlalchemy.sql.compiler import SQLCompiler

_COMPILED_MAX = 256
"""Statements whose SQL is kept. The store has some dozens."""


class Compiled(NamedTuple):
    """A statement in the terms of a driver."""

    sql: str
    parameters: Sequence[tuple[str, Callable[[Any], Any] | None]]
    """Name of each parameter in order, and what turns a value into one for the driver."""
    constants: Mapping[str, Any]
    """Values of parameters that the statement itself has."""
    row: Callable[[Sequence[Any]], Row[Any]]
    """Makes a row of the driver's values."""

    def arguments(self, values: Mapping[str, Any]) -> Sequence[Any]:
        """The driver's parameters, in order."""
        if self.constants:
            values = {**self.constants, **values}
        return [convert(values[name]) if convert is not None else values[name] for name, convert in self.parameters]


@lru_cache(_COMPILED_MAX)
def compiled(statement: Executable, columns: tuple[str, ...], dialect: Dialect) -> Compiled:
    """A statement for the driver of `dialect`.

    Args:
        statement: Lists of values in it are not supported.
        columns: The columns to insert or to set, unless the statement itself has them.
        dialect: That of an engine.
    """
    column_keys = list(columns) if statement.is_insert or statement.is_update else None
    compiler = statement.compile(dialect=dialect, column_keys=column_keys)  # type: ignore[attr-defined]
    assert isinstance(compiler, SQLCompiler), "the store compiles no DDL"
    parameters = [
        (name, compiler.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
        for name in compiler.positiontup or ()
    ]
    selected = statement.selected_columns if isinstance(statement, Select) else ()
    converters = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in selected]
    make = result_tuple([column.name for column in selected])

    def row(values: Sequence[Any]) -> Row[Any]:
        return make([convert(value) if convert else value for value, convert in zip(values, converters, strict=True)])

    constants = {name: bind.value for name, bind in compiler.binds.items() if not bind.required}
    return Compiled(compiler.string, parameters, constants, row)
