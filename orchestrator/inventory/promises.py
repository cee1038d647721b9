"""Promises: how many bytes each backend has promised, kept as a running sum."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import ColumnElement, func, select, update

from orchestrator.domain.states import PROMISED_STATES
from orchestrator.store.asking import Asked
from orchestrator.store.queries.finishing import AddPromised
from orchestrator.store.tables import backends, jobs, promises, volumes
from orchestrator.store.transaction import Transaction


def add(transaction: Transaction, bytes_by_backend: Mapping[int, int]) -> None:
    """Add to what backends have promised (ids to bytes, which may be negative).

    The last thing a transaction does.
    """
    if changes := added(bytes_by_backend):
        transaction.ask(*changes)


def added(
    bytes_by_backend: Mapping[int, int], limits: Mapping[int, int] | None = None
) -> list[Asked[None]]:
    """What `add` does, to be done by `ask`, last of all.

    If a sum were above the backend's limit then, the database refuses, and `transact` does the
    whole transaction again, which sees what others have promised meanwhile.
    """
    return [
        AddPromised(backend_id, difference, (limits or {}).get(backend_id))
        for backend_id, difference in sorted(bytes_by_backend.items())
        if difference
    ]


def promised() -> ColumnElement[int]:
    """What the backend of a row of `backends` has promised."""
    latest = (
        select(promises.c.promised_bytes)
        .where(promises.c.backend_id == backends.c.id)
        .order_by(promises.c.version.desc())
        .limit(1)
    )
    return func.coalesce(latest.scalar_subquery(), 0)


def counted(transaction: Transaction, backend_id: int) -> int:
    """What the backend has promised, counted anew from what it consists of."""
    sizes = select(func.coalesce(func.sum(volumes.c.size_bytes), 0)).where(
        volumes.c.backend_id == backend_id, volumes.c.state.in_(PROMISED_STATES)
    )
    coming = select(func.coalesce(func.sum(jobs.c.promised_bytes), 0)).where(
        jobs.c.backend_id == backend_id, jobs.c.finished_at.is_(None)
    )
    return sum(int(transaction.execute(one).scalar_one()) for one in (sizes, coming))


def recount(transaction: Transaction, backend_id: int) -> None:
    """Make the running sum what is counted.

    Who has changed what it consists of adds the difference last of all, and commits: with the
    row locked, what can be counted is in the sum, and what cannot be seen yet will be added.
    """
    transaction.execute(
        select(promises.c.promised_bytes)
        .where(promises.c.backend_id == backend_id)
        .with_for_update()
    )
    transaction.execute(
        update(promises)
        .where(promises.c.backend_id == backend_id)
        .values(promised_bytes=counted(transaction, backend_id), limit_bytes=None)
    )
