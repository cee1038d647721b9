"""Names in filters: one that is not known is refused where it would answer an empty list."""

from __future__ import annotations

from sqlalchemy import Connection, select

from orchestrator.inventory.backends import unknown_backend
from orchestrator.store.tables import backends


def check_backend(connection: Connection, backend: str | None) -> None:
    """Raise `UnknownBackend` if there never was a backend of this name."""
    if backend is None:
        return
    known = select(backends.c.id).where(backends.c.name == backend)
    if connection.execute(known).first() is None:
        raise unknown_backend(connection, backend)
