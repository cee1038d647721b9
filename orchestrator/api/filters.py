"""Names in filters: one that is not known is refused where it would answer an empty list."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import TypeVar

from sqlalchemy import select

from orchestrator.inventory.backends import unknown_backend
from orchestrator.store.tables import backends
from orchestrator.store.transaction import Transaction

T = TypeVar("T", bound=Sized)


def of_backend(backend: str | None, read: Callable[[Transaction], T]) -> Callable[[Transaction], T]:
    """Have a list that may be of one backend refuse a name that no backend ever had.

    It raises `UnknownBackend` where it finds nothing and there never was a backend of this name.
    """

    def checked(transaction: Transaction) -> T:
        found = read(transaction)
        if not found:
            check_backend(transaction, backend)
        return found

    return checked


def check_backend(transaction: Transaction, backend: str | None) -> None:
    """Raise `UnknownBackend` if there never was a backend of this name."""
    if backend is None:
        return
    known = select(backends.c.id).where(backends.c.name == backend)
    if transaction.execute(known).first() is None:
        raise unknown_backend(transaction, backend)
