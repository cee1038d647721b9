"""Many rows in one statement, and numbers drawn many at a time.

On PostgreSQL rows travel as one array a column (``unnest``), which is the fastest way short
of COPY and needs one plan; SQLite runs one prepared statement for each row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    Connection,
    String,
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
    """Insert rows that all have the same columns. What is None in all of them is left out."""
    if not rows:
        return
    columns = _columns_used(rows)
    if connection.dialect.name == "postgresql":
        statement = f"INSERT INTO {table.name} ({', '.join(columns)}) SELECT {{values}}"
        _with_values(connection, statement, table, columns, rows)
    else:
        # None that one row needs is one that all must name.
        prepared = [{name: row[name] for name in columns} for row in rows]
        connection.execute(insert(table), prepared)


@dataclass(frozen=True)
class Parent:
    """A row that others belong to: it gets a new number, which they have in ``column``."""

    table: Table
    #: What `draw` calls its numbers.
    numbers: str
    column: str


def insert_family(
    connection: Connection, parent: Parent, values: Row, table: Table, rows: Sequence[Row]
) -> None:
    """Insert a parent with ``values``, and ``rows``, at least one, that belong to it."""
    if connection.dialect.name != "postgresql":
        [number] = draw(connection, parent.numbers, 1)
        insert_rows(connection, parent.table, [{"id": number, **values}])
        insert_rows(connection, table, [{parent.column: number, **row} for row in rows])
        return
    columns = _columns_used(rows)
    named = ", ".join(f"%(parent_{name})s" for name in values)
    statement = (
        f"WITH parent AS (INSERT INTO {parent.table.name} (id, {', '.join(values)})"  # noqa: S608
        f" VALUES (nextval('{SEQUENCES[parent.numbers].name}'), {named}) RETURNING id)"
        f" INSERT INTO {table.name} ({parent.column}, {', '.join(columns)})"
        " SELECT parent.id, {values} FROM parent"
    )
    more = {f"parent_{name}": value for name, value in values.items()}
    _with_values(connection, statement, table, columns, rows, more)


def update_rows(
    connection: Connection, table: Table, keys: Sequence[str], rows: Sequence[Row]
) -> None:
    """Set the columns of each row, all the same ones, where its ``keys`` match."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        columns = tuple(rows[0])
        changed = ", ".join(f"{name} = new.{name}" for name in columns if name not in keys)
        matches = " AND ".join(f"{table.name}.{key} = new.{key}" for key in keys)
        statement = (
            f"UPDATE {table.name} SET {changed}"  # noqa: S608 - names come from our own tables
            f" FROM (SELECT {{values}}) AS new ({', '.join(columns)}) WHERE {matches}"
        )
        _with_values(connection, statement, table, columns, rows)
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


def _columns_used(rows: Sequence[Row]) -> tuple[str, ...]:
    if len(rows) == 1:
        return tuple(name for name, value in rows[0].items() if value is not None)
    return tuple(name for name in rows[0] if any(row[name] is not None for row in rows))


def _with_values(
    connection: Connection,
    statement: str,
    table: Table,
    columns: tuple[str, ...],
    rows: Sequence[Row],
    more: Mapping[str, Any] | None = None,
) -> None:
    """Execute a statement whose ``{values}`` are these rows: one array a column.

    What is the same in all rows travels once.
    """
    types = _types(table)
    listed: list[str] = []
    values: dict[str, Any] = dict(more or {})
    first = rows[0]
    for name in columns:
        written, convert = types[name]
        value = first[name]
        if len(rows) == 1 or all(row[name] == value for row in rows):
            listed.append(f"%({name})s::{written}")
            values[name] = None if value is None else convert(value)
        else:
            listed.append(f"unnest(%({name})s::{written}[])")
            values[name] = [None if row[name] is None else convert(row[name]) for row in rows]
    if len(rows) > 1 and not any(part.startswith("unnest") for part in listed):
        raise ValueError(f"rows of {table.name} that are all the same")
    connection.exec_driver_sql(statement.format(values=", ".join(listed)), values)


@cache
def _types(table: Table) -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """How PostgreSQL writes the type of each column, and how its values are made ready."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    found: dict[str, tuple[str, Callable[[Any], Any]]] = {}
    for column in table.c:
        written = column.type.compile(dialect=dialect).partition("(")[0]
        convert: Callable[[Any], Any] = _same
        if written == "JSONB":
            convert = json.dumps
        elif isinstance(column.type, Boolean):
            convert = bool
        elif isinstance(column.type, String):
            convert = str  # a StrEnum, too
        found[column.name] = written, convert
    return found


def _same(value: Any) -> Any:
    return value
