"""Many rows in one statement, and numbers drawn many at a time.

On PostgreSQL rows travel as one array a column (``unnest``), which is the fastest way short
of COPY and needs one plan; SQLite runs one prepared statement for each row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    Dialect,
    String,
    Table,
    any_,
    bindparam,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql

from orchestrator.store.asking import array
from orchestrator.store.tables import SEQUENCES
from orchestrator.store.transaction import Asked, Rows, Transaction

Row = dict[str, Any]


def draw(transaction: Transaction, name: str, count: int) -> list[int]:
    """``count`` new numbers, growing, never given out before (`SEQUENCES` names them)."""
    [rows] = transaction.ask(drawn(name, count))
    return [row["number"] for row in rows]


def drawn(name: str, count: int) -> Asked:
    """What `draw` does, to be done by `ask`: rows with a ``number`` each."""
    return _Drawn(name, count)


@dataclass(frozen=True)
class _Drawn:
    name: str
    count: int

    def written(self, _dialect: Dialect) -> tuple[str, dict[str, Any]]:
        sequence = SEQUENCES[self.name].name
        return (
            f"SELECT nextval('{sequence}') AS number"  # noqa: S608 - our own name
            " FROM generate_series(1, %(count)s::integer)",
            {"count": self.count},
        )

    def execute(self, transaction: Transaction) -> Rows:
        if self.count == 0:
            return []
        last: int = transaction.execute(
            text(
                "INSERT INTO counters (name, value) VALUES (:name, :count)"
                " ON CONFLICT (name) DO UPDATE SET value = value + :count RETURNING value"
            ),
            {"name": self.name, "count": self.count},
        ).scalar_one()
        return [{"number": number} for number in range(last - self.count + 1, last + 1)]


def insert_rows(transaction: Transaction, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows that all have the same columns. What is None in all of them is left out."""
    if rows:
        transaction.ask(inserted(table, rows))


def update_rows(
    transaction: Transaction, table: Table, keys: Sequence[str], rows: Sequence[Row]
) -> None:
    """Set the columns of each row, all the same ones, where its ``keys`` match."""
    if rows:
        transaction.ask(updated(table, keys, rows))


@dataclass(frozen=True)
class Parent:
    """A row that others belong to: it gets a new number, which they have in ``column``."""

    table: Table
    #: What `draw` calls its numbers.
    numbers: str
    column: str


def inserted(table: Table, rows: Sequence[Row]) -> Asked:
    """What `insert_rows` does, to be done by `ask`; there is at least one row."""
    return _Inserted(table, rows, None, {})


def inserted_family(parent: Parent, values: Row, table: Table, rows: Sequence[Row]) -> Asked:
    """The same with a parent, which has ``values``, that the rows belong to."""
    return _Inserted(table, rows, parent, values)


def updated(table: Table, keys: Sequence[str], rows: Sequence[Row]) -> Asked:
    """What `update_rows` does, to be done by `ask`; there is at least one row."""
    return _Updated(table, keys, rows)


@dataclass(frozen=True)
class _Inserted:
    table: Table
    rows: Sequence[Row]
    parent: Parent | None
    values: Row

    def written(self, _dialect: Dialect) -> tuple[str, dict[str, Any]]:
        columns = _columns_used(self.rows)
        listed, parameters = _values(self.table, columns, self.rows)
        named = ", ".join(columns)
        if self.parent is None:
            into = f"INSERT INTO {self.table.name} ({named}) SELECT {listed}"
            return into, parameters
        own = "".join(f", {name}" for name in self.values)
        given = "".join(f", %(parent_{name})s" for name in self.values)
        number = f"nextval('{SEQUENCES[self.parent.numbers].name}')"
        parameters |= {f"parent_{name}": value for name, value in self.values.items()}
        return (
            f"WITH parent AS (INSERT INTO {self.parent.table.name} (id{own})"  # noqa: S608
            f" VALUES ({number}{given}) RETURNING id)"
            f" INSERT INTO {self.table.name} ({self.parent.column}, {named})"
            f" SELECT parent.id, {listed} FROM parent",
            parameters,
        )

    def execute(self, transaction: Transaction) -> Rows:
        rows = self.rows
        if self.parent is not None:
            [number] = draw(transaction, self.parent.numbers, 1)
            transaction.execute(insert(self.parent.table), {"id": number, **self.values})
            rows = [{self.parent.column: number, **row} for row in rows]
        columns = _columns_used(rows)
        transaction.execute(
            insert(self.table), [{name: row[name] for name in columns} for row in rows]
        )
        return []


@dataclass(frozen=True)
class _Updated:
    table: Table
    keys: Sequence[str]
    rows: Sequence[Row]

    def written(self, _dialect: Dialect) -> tuple[str, dict[str, Any]]:
        name, columns = self.table.name, tuple(self.rows[0])
        listed, parameters = _values(self.table, columns, self.rows)
        changed = ", ".join(f"{column} = new.{column}" for column in columns
                            if column not in self.keys)  # fmt: skip
        matches = " AND ".join(f"{name}.{key} = new.{key}" for key in self.keys)
        return (
            f"UPDATE {name} SET {changed} FROM (SELECT {listed})"  # noqa: S608 - our own names
            f" AS new ({', '.join(columns)}) WHERE {matches}",
            parameters,
        )

    def execute(self, transaction: Transaction) -> Rows:
        statement = update(self.table)
        for key in self.keys:
            column = self.table.c[key]
            statement = statement.where(column == bindparam(f"_{key}", type_=column.type))
        transaction.execute(
            statement,
            [
                {(f"_{name}" if name in self.keys else name): value for name, value in row.items()}
                for row in self.rows
            ],
        )
        return []


def among(transaction: Transaction, column: ColumnElement[Any], values: Iterable[Any]) -> Any:
    """The condition that ``column`` is one of ``values``, however many there are.

    One bound value, so the statement and its plan stay the same for any number.
    """
    listed = list(values)
    if transaction.dialect.name == "postgresql":
        array = bindparam(None, listed, ARRAY(column.type), unique=True)
        return column == any_(array)
    parsed = func.json_each(json.dumps(listed)).table_valued("value")
    return column.in_(select(parsed.c.value))


def _columns_used(rows: Sequence[Row]) -> tuple[str, ...]:
    if len(rows) == 1:
        return tuple(name for name, value in rows[0].items() if value is not None)
    return tuple(name for name in rows[0] if any(row[name] is not None for row in rows))


def _values(
    table: Table, columns: tuple[str, ...], rows: Sequence[Row]
) -> tuple[str, dict[str, Any]]:
    """A select list that yields these rows, one array a column, and its parameters.

    What is the same in all rows travels once.
    """
    types = _types(table)
    listed: list[str] = []
    parameters: dict[str, Any] = {}
    first = rows[0]
    arrays = False
    for name in columns:
        written, convert = types[name]
        value = first[name]
        if len(rows) == 1 or all(row[name] == value for row in rows):
            listed.append(f"%({name})s::{written}")
            parameters[name] = None if value is None else convert(value)
        elif written == _JSON:
            # One document that PostgreSQL takes apart: an array of documents would have every
            # quotation mark in them escaped.
            arrays = True
            listed.append(f"NULLIF(jsonb_array_elements(%({name})s::{_JSON}), 'null')")
            parameters[name] = json.dumps([row[name] for row in rows])
        else:
            arrays = True
            listed.append(f"unnest(%({name})s::{written}[])")
            parameters[name] = array(
                [None if row[name] is None else convert(row[name]) for row in rows]
            )
    if len(rows) > 1 and not arrays:
        raise ValueError(f"rows of {table.name} that are all the same")
    return ", ".join(listed), parameters


#: What PostgreSQL calls JSON that it keeps parsed.
_JSON = "JSONB"


@cache
def _types(table: Table) -> dict[str, tuple[str, Callable[[Any], Any]]]:
    """How PostgreSQL writes the type of each column, and how its values are made ready."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    found: dict[str, tuple[str, Callable[[Any], Any]]] = {}
    for column in table.c:
        written = column.type.compile(dialect=dialect).partition("(")[0]
        convert: Callable[[Any], Any] = _same
        if written == _JSON:
            convert = json.dumps
        elif isinstance(column.type, Boolean):
            convert = bool
        elif isinstance(column.type, String):
            convert = str  # a StrEnum, too
        found[column.name] = written, convert
    return found


def _same(value: Any) -> Any:
    return value
