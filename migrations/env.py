"""Runs migrations on the connection that `orchestrator.store.migrate` hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from orchestrator.store.tables import metadata

connection: Connection = context.config.attributes["connection"]

context.configure(
    connection=connection,
    target_metadata=metadata,
    compare_type=True,
    # SQLite changes tables by copying them.
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
