"""How much a database reads for something: rows on PostgreSQL, steps of the program on SQLite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from orchestrator.store.database import Database
from orchestrator.store.tables import metadata
from orchestrator.store.transaction import Transaction

#: Steps of SQLite that are counted as one.
_STEPS = 10


def leave_unanalyzed(transaction: Transaction) -> None:
    """Have nobody analyze the tables of a database: PostgreSQL plans without statistics."""
    for table in metadata.tables:
        transaction.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = false)"))


def rows_read(database: Database) -> int:
    """How many rows PostgreSQL has read in this database, on behalf of anybody."""
    with database.write() as transaction:
        # What a session has read is counted when it says so, or rests.
        transaction.execute(text("SELECT pg_stat_force_next_flush()"))
    with database.write() as transaction:
        counted = "SELECT tup_returned + tup_fetched FROM pg_stat_database WHERE datname = "
        return int(transaction.execute(text(f"{counted} current_database()")).scalar_one())


def read_for(database: Database, work: Callable[[Transaction], Any]) -> int:
    """How much is read for a transaction that changes nothing; in a unit of each database's own.

    It is done twice: the first time, PostgreSQL reads what its tables are, too.
    """
    database.look(work)
    if database.is_postgresql:
        before = rows_read(database)
        database.look(work)
        return rows_read(database) - before
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    with database.read() as transaction:
        transaction.raw.set_progress_handler(count, _STEPS)
        try:
            work(transaction)
        finally:
            transaction.raw.set_progress_handler(None, _STEPS)
    return steps
