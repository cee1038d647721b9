"""Many rows in one statement, and numbers drawn many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Table, bindparam

from orchestrator.store.asking import Asked, In, Listed, Query
from orchestrator.store.transaction import Transaction

Row = dict[str, Any]


class Number(NamedTuple):
    """A number that was given out."""

    number: int


@dataclass(frozen=True)
class Drawn(Query[Number]):
    """``count`` new numbers from a source (`SEQUENCES` names them), growing, never given out
    before."""

    name: str
    count: int


@dataclass(frozen=True)
class Inserted(Query[None]):
    """Rows of a table that all have the same columns; what is None in all of them is left out.

    With a parent, which has ``values``, that the rows belong to.
    """

    table: Table
    rows: Sequence[Row]
    parent: Parent | None
    values: Row


@dataclass(frozen=True)
class Updated(Query[None]):
    """The columns of each row, all the same ones, set where its ``keys`` match."""

    table: Table
    keys: Sequence[str]
    rows: Sequence[Row]


@dataclass(frozen=True)
class Parent:
    """A row that others belong to: it gets a new number, which they have in ``column``."""

    table: Table
    #: What `draw` calls its numbers.
    numbers: str
    column: str


def draw(transaction: Transaction, name: str, count: int) -> list[int]:
    """``count`` new numbers from a source: see `Drawn`."""
    [rows] = transaction.ask(Drawn(name, count))
    return [row.number for row in rows]


def insert_rows(transaction: Transaction, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows: see `Inserted`."""
    if rows:
        transaction.ask(inserted(table, rows))


def update_rows(
    transaction: Transaction, table: Table, keys: Sequence[str], rows: Sequence[Row]
) -> None:
    """Set columns of rows: see `Updated`."""
    if rows:
        transaction.ask(updated(table, keys, rows))


def inserted(table: Table, rows: Sequence[Row]) -> Asked[None]:
    """What `insert_rows` does, to be done by `ask`; there is at least one row."""
    return Inserted(table, rows, None, {})


def inserted_family(parent: Parent, values: Row, table: Table, rows: Sequence[Row]) -> Asked[None]:
    """The same with a parent, which has ``values``, that the rows belong to."""
    return Inserted(table, rows, parent, values)


def updated(table: Table, keys: Sequence[str], rows: Sequence[Row]) -> Asked[None]:
    """What `update_rows` does, to be done by `ask`; there is at least one row."""
    return Updated(table, keys, rows)


def among(column: ColumnElement[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """The condition that ``column`` is one of ``values``, however many there are."""
    return In(column, bindparam(None, list(values), Listed(column.type), unique=True))


def columns_of(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The values of each column of these rows."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def columns_used(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The same without the columns that are None in all of them."""
    count = len(rows)
    return {name: some for name, some in columns_of(rows).items() if some.count(None) < count}
