"""Many rows: one prepared statement, executed for each. Numbers are counted in a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Table, text
from sqlalchemy.dialects import sqlite

from orchestrator.store.bulk import Drawn, Inserted, Number, Updated, columns_of, columns_used, draw
from orchestrator.store.transaction import Transaction

_DRAW = text(
    "INSERT INTO counters (name, value) VALUES (:name, :count)"
    " ON CONFLICT (name) DO UPDATE SET value = value + :count RETURNING value"
)


def drawn(transaction: Transaction, asked: Drawn) -> Sequence[Any]:
    """Execute `Drawn`."""
    if asked.count == 0:
        return []
    last: int = transaction.execute(_DRAW, vars(asked)).scalar_one()
    return [Number(number) for number in range(last - asked.count + 1, last + 1)]


def inserted(transaction: Transaction, asked: Inserted) -> Sequence[Any]:
    """Execute `Inserted`."""
    columns = columns_used(asked.rows)
    if asked.parent is not None:
        [number] = draw(transaction, asked.parent.numbers, 1)
        _insert(transaction, asked.parent.table, columns_of([{"id": number, **asked.values}]))
        columns[asked.parent.column] = [number] * len(asked.rows)
    _insert(transaction, asked.table, columns)
    return []


def updated(transaction: Transaction, asked: Updated) -> Sequence[Any]:
    """Execute `Updated`."""
    columns = columns_of(asked.rows)
    # In the order of the placeholders.
    found = {key: columns.pop(key) for key in asked.keys}
    changed = ", ".join(f"{name} = ?" for name in columns)
    matches = " AND ".join(f"{key} = ?" for key in found)
    statement = f"UPDATE {asked.table.name} SET {changed} WHERE {matches}"
    _execute(transaction, statement, asked.table, {**columns, **found})
    return []


def _insert(transaction: Transaction, table: Table, columns: Mapping[str, Sequence[Any]]) -> None:
    places = ", ".join("?" * len(columns))
    statement = f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({places})"
    _execute(transaction, statement, table, columns)


def _execute(
    transaction: Transaction, statement: str, table: Table, columns: Mapping[str, Sequence[Any]]
) -> None:
    """Execute it for each row; as SQLAlchemy would, which looks at every value by itself."""
    writers = _writers(table)
    written = [_written(values, writers[name]) for name, values in columns.items()]
    transaction.connection.exec_driver_sql(statement, list(zip(*written, strict=True)))


def _written(values: Sequence[Any], writer: Callable[[Any], Any] | None) -> Iterable[Any]:
    """The values of a column as the driver takes them; what is the same in all is made once."""
    if writer is None:
        return values
    if values.count(values[0]) == len(values):
        return [writer(values[0])] * len(values)
    return map(writer, values)


@cache
def _writers(table: Table) -> dict[str, Callable[[Any], Any] | None]:
    """What makes the values of each column ready for the driver; None: they are."""
    dialect = sqlite.dialect()
    return {
        column.name: column.type.dialect_impl(dialect).bind_processor(dialect) for column in table.c
    }
