"""Many rows: one prepared statement, executed for each. Numbers are counted in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, insert, text, update

from orchestrator.store.bulk import Drawn, Inserted, Number, Updated, columns_used, draw
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
    rows = asked.rows
    if asked.parent is not None:
        [number] = draw(transaction, asked.parent.numbers, 1)
        transaction.execute(insert(asked.parent.table), {"id": number, **asked.values})
        rows = [{asked.parent.column: number, **row} for row in rows]
    columns = columns_used(rows)
    transaction.execute(
        insert(asked.table), [{name: row[name] for name in columns} for row in rows]
    )
    return []


def updated(transaction: Transaction, asked: Updated) -> Sequence[Any]:
    """Execute `Updated`."""
    statement = update(asked.table)
    for key in asked.keys:
        column = asked.table.c[key]
        statement = statement.where(column == bindparam(f"_{key}", type_=column.type))
    transaction.execute(
        statement,
        [
            {(f"_{name}" if name in asked.keys else name): value for name, value in row.items()}
            for row in asked.rows
        ],
    )
    return []
