"""Names in filters: one that is not known is refused where it would answer an empty list."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TypeVar

from sqlalchemy import Connection, select

from orchestrator.inventory.backends import unknown_backend
from orchestrator.store.tables import backends

T = TypeVar("T", bound=Sized)


def of_backend(backend: str | None, read: Callable[[Connection], T]) -> Callable[[Connection], T]:
    """Have a list that may be of one backend refuse a name that no backend ever had.

    It raises `UnknownBackend` where it finds nothing and there never was a backend of this name.
    """

    def checked(connection: Connection) -> T:
        found = read(connection)
        if not found:
            check_backend(connection, backend)
        return found

    return checked


def check_backend(connection: Connection, backend: str | None) -> None:
    """Raise `UnknownBackend` if there never was a backend of this name."""
    if backend is None:
        return
    known = select(backends.c.id).where(backends.c.name == backend)
    if connection.execute(known).first() is None:
        raise unknown_backend(connection, backend)
