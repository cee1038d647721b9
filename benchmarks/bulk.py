"""Rows by the million: what those who write them past the product have in common."""

from __future__ import annotations

import psycopg


def plain(url: str) -> str:
    """The URL as psycopg takes it."""
    return url.replace("postgresql+psycopg:", "postgresql:")


def connect(url: str) -> psycopg.Connection:
    """A connection for many rows: without triggers, and without waiting for the disk.

    Foreign keys are satisfied by the way rows are made; all other constraints are checked.
    """
    connection = psycopg.connect(plain(url), autocommit=True)
    connection.execute("SET session_replication_role = replica")
    connection.execute("SET synchronous_commit = off")
    connection.execute("SET maintenance_work_mem = '256MB'")
    connection.execute("SET work_mem = '256MB'")
    return connection


def drop_indexes(connection: psycopg.Connection, table: str) -> list[str]:
    """Drop the indexes that only make reading quick; what makes them again."""
    rows = connection.execute(
        "SELECT i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid)"
        " FROM pg_index AS i"
        " WHERE i.indrelid = %s::regclass AND NOT i.indisprimary"
        " AND NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.conindid = i.indexrelid)",
        (table,),
    ).fetchall()
    for name, _ in rows:
        connection.execute(f"DROP INDEX {name}")
    return [definition for _, definition in rows]


def reserve(connection: psycopg.Connection, sequence: str, count: int) -> int:
    """Take so many numbers from a sequence; the first of them."""
    first = one(connection, f"SELECT nextval('{sequence}')")
    connection.execute(f"SELECT setval('{sequence}', {first + count - 1})")
    return first


def one(connection: psycopg.Connection, query: str) -> int:
    """The one number that a query has."""
    row = connection.execute(query).fetchone()
    assert row is not None  # noqa: S101 - an aggregate always has a row
    return int(row[0])
