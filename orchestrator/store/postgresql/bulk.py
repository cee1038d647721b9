"""Many rows in one statement: one array a column, taken apart by ``unnest``.

That is the fastest way short of COPY, and needs one plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Boolean, String, Table
from sqlalchemy.dialects import postgresql

from orchestrator.store.bulk import Drawn, Inserted, Row, Updated, columns_used
from orchestrator.store.tables import SEQUENCES

Written = tuple[bytes, dict[str, Any]]


def drawn(asked: Drawn) -> Written:
    """The statement for `Drawn`."""
    sequence = SEQUENCES[asked.name].name
    return (
        f"SELECT nextval('{sequence}') AS number"
        " FROM generate_series(1, %(count)s::integer)".encode(),
        {"count": asked.count},
    )


def inserted(asked: Inserted) -> Written:
    """The statement for `Inserted`."""
    columns = columns_used(asked.rows)
    listed, parameters = _values(asked.table, columns, asked.rows)
    named = ", ".join(columns)
    if asked.parent is None:
        into = f"INSERT INTO {asked.table.name} ({named}) SELECT {listed}"
        return into.encode(), parameters
    own = "".join(f", {name}" for name in asked.values)
    given = "".join(f", %(parent_{name})s" for name in asked.values)
    number = f"nextval('{SEQUENCES[asked.parent.numbers].name}')"
    parameters |= {f"parent_{name}": value for name, value in asked.values.items()}
    statement = (
        f"WITH parent AS (INSERT INTO {asked.parent.table.name} (id{own})"
        f" VALUES ({number}{given}) RETURNING id)"
        f" INSERT INTO {asked.table.name} ({asked.parent.column}, {named})"
        f" SELECT parent.id, {listed} FROM parent"
    )
    return statement.encode(), parameters


def updated(asked: Updated) -> Written:
    """The statement for `Updated`."""
    name, columns = asked.table.name, tuple(asked.rows[0])
    listed, parameters = _values(asked.table, columns, asked.rows)
    changed = ", ".join(f"{column} = new.{column}" for column in columns
                        if column not in asked.keys)  # fmt: skip
    matches = " AND ".join(f"{name}.{key} = new.{key}" for key in asked.keys)
    statement = (
        f"UPDATE {name} SET {changed} FROM (SELECT {listed})"
        f" AS new ({', '.join(columns)}) WHERE {matches}"
    )
    return statement.encode(), parameters


def array(values: Sequence[Any]) -> Any:
    """Texts or whole numbers as PostgreSQL writes an array; anything else as it is.

    Its driver would look at each value for its type, and for what needs a quotation mark.
    """
    kinds = {type(value) for value in values}
    if kinds == {int}:
        return "{" + ",".join(map(str, values)) + "}"
    if kinds == {str}:
        joined = '","'.join(values)
        if "\\" not in joined and joined.count('"') == 2 * (len(values) - 1):
            return '{"' + joined + '"}'
    return values


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
