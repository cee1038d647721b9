"""Many rows in one statement, and numbers drawn many at a time.

On PostgreSQL rows travel as one array a column (``unnest``), which is the fastest way short
of COPY and needs one plan; SQLite runs one prepared statement for each row.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    Connection,
    Table,
    Text,
    any_,
    bindparam,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql

from orchestrator.store.tables import SEQUENCES

Row = dict[str, Any]


def draw(connection: Connection, name: str, count: int) -> list[int]:
    """``count`` new numbers, growing, never given out before (`SEQUENCES` names them)."""
    if connection.dialect.name == "postgresql":
        statement = select(SEQUENCES[name].next_value()).select_from(func.generate_series(1, count))
        return list(connection.execute(statement).scalars())
    last: int = connection.execute(
        text(
            "INSERT INTO counters (name, value) VALUES (:name, :count)"
            " ON CONFLICT (name) DO UPDATE SET value = value + :count RETURNING value"
        ),
        {"name": name, "count": count},
    ).scalar_one()
    return list(range(last - count + 1, last + 1))


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows that all have the same columns."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        statement = _unnest_insert(table, tuple(rows[0]))
        connection.exec_driver_sql(statement, _arrays(table, rows))
    else:
        connection.execute(insert(table), list(rows))


def update_rows(
    connection: Connection, table: Table, keys: Sequence[str], rows: Sequence[Row]
) -> None:
    """Set the columns of each row, all the same ones, where its ``keys`` match."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        statement = _unnest_update(table, tuple(keys), tuple(rows[0]))
        connection.exec_driver_sql(statement, _arrays(table, rows))
        return
    statement_ = update(table)
    for key in keys:
        statement_ = statement_.where(table.c[key] == bindparam(f"_{key}", type_=table.c[key].type))
    prepared = [
        {(f"_{name}" if name in keys else name): value for name, value in row.items()}
        for row in rows
    ]
    connection.execute(statement_, prepared)


def among(connection: Connection, column: ColumnElement[Any], values: Iterable[Any]) -> Any:
    """The condition that ``column`` is one of ``values``, however many there are.

    One bound value, so the statement and its plan stay the same for any number.
    """
    listed = list(values)
    if connection.dialect.name == "postgresql":
        array = bindparam(None, listed, ARRAY(column.type), unique=True)
        return column == any_(array)
    parsed = func.json_each(json.dumps(listed)).table_valued("value")
    return column.in_(select(parsed.c.value))


def listed(connection: Connection, values: Iterable[str]) -> Any:
    """``values`` as a table with the one column ``value``, from one bound parameter."""
    texts = list(values)
    if connection.dialect.name == "postgresql":
        array = bindparam(None, texts, ARRAY(Text), unique=True)
        return func.unnest(array).table_valued("value").render_derived(name="listed")
    return func.json_each(json.dumps(texts)).table_valued("value").alias("listed")


@cache
def _unnest_insert(table: Table, columns: tuple[str, ...]) -> str:
    return f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT {_casts(table, columns)}"


@cache
def _unnest_update(table: Table, keys: tuple[str, ...], columns: tuple[str, ...]) -> str:
    changed = ", ".join(f"{name} = new.{name}" for name in columns if name not in keys)
    matches = " AND ".join(f"{table.name}.{key} = new.{key}" for key in keys)
    named = ", ".join(columns)
    return (
        f"UPDATE {table.name} SET {changed}"  # noqa: S608 - names come from our own tables
        f" FROM (SELECT {_casts(table, columns)}) AS new ({named}) WHERE {matches}"
    )


def _casts(table: Table, columns: tuple[str, ...]) -> str:
    return ", ".join(f"unnest(%({name})s::{_type(table, name)}[])" for name in columns)


def _type(table: Table, column: str) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return table.c[column].type.compile(dialect=dialect).partition("(")[0]


def _arrays(table: Table, rows: Sequence[Row]) -> dict[str, list[Any]]:
    arrays: dict[str, list[Any]] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        kind = _type(table, name)
        if kind == "JSONB":
            values = [None if value is None else json.dumps(value) for value in values]
        elif isinstance(table.c[name].type, Boolean):
            values = [None if value is None else bool(value) for value in values]
        arrays[name] = values
    return arrays
