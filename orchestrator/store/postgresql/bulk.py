"""Many rows in one statement: one array a column, taken apart by ``unnest``.

That is the fastest way short of COPY, and needs one plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Boolean, String, Table
from sqlalchemy.dialects import postgresql

from orchestrator.store.bulk import Drawn, Inserted, Updated, columns_of, columns_used
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
    listed, parameters = _values(asked.table, columns)
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
    name, columns = asked.table.name, columns_of(asked.rows)
    listed, parameters = _values(asked.table, columns)
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
    kinds = set(map(type, values))
    if kinds == {int}:
        return "{" + ",".join(map(str, values)) + "}"
    if kinds and all(issubclass(kind, str) for kind in kinds):
        joined = '","'.join(values)
        if "\\" not in joined and joined.count('"') == 2 * (len(values) - 1):
            return '{"' + joined + '"}'
    return values


def _values(table: Table, columns: Mapping[str, Sequence[Any]]) -> tuple[str, dict[str, Any]]:
    """A select list that yields the rows with these columns, an array each, and its parameters.

    What is the same in all rows travels once.
    """
    types = _types(table)
    listed: list[str] = []
    parameters: dict[str, Any] = {}
    count = arrays = 0
    for name, values in columns.items():
        written, convert = types[name]
        count, first = len(values), values[0]
        if values.count(first) == count:
            listed.append(f"%({name})s::{written}")
            parameters[name] = None if first is None else convert(first)
        elif written == _JSON:
            # One document that PostgreSQL takes apart: an array of documents would have every
            # quotation mark in them escaped.
            arrays += 1
            listed.append(f"NULLIF(jsonb_array_elements(%({name})s::{_JSON}), 'null')")
            parameters[name] = json.dumps(values)
        else:
            arrays += 1
            listed.append(f"unnest(%({name})s::{written}[])")
            written_out = array(values)
            if written_out is values and convert is not _same:
                written_out = [None if value is None else convert(value) for value in values]
            parameters[name] = written_out
    if count > 1 and not arrays:
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
