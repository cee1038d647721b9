"""The views for people who write SQL: which there are, and who may read them."""

from __future__ import annotations

from psycopg import sql
from sqlalchemy import text

from orchestrator.domain.errors import InvalidInput, NotFound
from orchestrator.store.transaction import Transaction

#: Made by migration 0009; docs/sql.md tells their columns.
VIEWS = (
    "audit_volume_history",
    "audit_jobs",
    "audit_locks",
    "audit_capacity_daily",
    "audit_who",
)


def grant(transaction: Transaction, role: str) -> None:
    """Let a role of PostgreSQL read the views, and give it nothing else.

    The views read their tables with the rights of whoever made them. Raises `NotFound` if there
    is no such role, `InvalidInput` where the database has no roles.
    """
    if transaction.connection.dialect.name != "postgresql":
        raise InvalidInput(
            "SQLite has no roles: let auditors open the file read-only, as docs/sql.md says",
            field="role",
        )
    there = "SELECT 1 FROM pg_roles WHERE rolname = :role"
    if "\0" in role or transaction.execute(text(there), {"role": role}).first() is None:
        raise NotFound(
            f"the database has no role {role!r}: make it first, with CREATE ROLE", field="role"
        )
    schema = transaction.execute(text("SELECT current_schema()")).scalar_one()
    to = sql.Identifier(role)
    views = sql.SQL(", ").join(sql.Identifier(schema, view) for view in VIEWS)
    for statement in (
        sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(sql.Identifier(schema), to),
        sql.SQL("GRANT SELECT ON {} TO {}").format(views, to),
    ):
        transaction.raw.execute(statement)
