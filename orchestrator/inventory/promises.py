"""Promises: how many bytes each backend has promised, kept as a running sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, text, update

from orchestrator.domain.states import PROMISED_STATES
from orchestrator.store.asking import Asked, Question
from orchestrator.store.tables import jobs, promises, volumes
from orchestrator.store.transaction import Transaction

#: The row stays locked until the transaction ends: nothing may follow but its commit, and
#: several backends come in the order of their ids.
_ADD = Question(
    text(
        "INSERT INTO promises (backend_id, promised_bytes, limit_bytes)"
        " VALUES (:backend_id, :bytes, CAST(:most AS bigint))"
        " ON CONFLICT (backend_id) DO UPDATE"
        " SET promised_bytes = promises.promised_bytes + excluded.promised_bytes,"
        " limit_bytes = excluded.limit_bytes"
    )
)


def add(transaction: Transaction, bytes_by_backend: Mapping[int, int]) -> None:
    """Add to what backends have promised (ids to bytes, which may be negative).

    The last thing a transaction does.
    """
    if changes := added(bytes_by_backend):
        transaction.ask(*changes)


def added(
    bytes_by_backend: Mapping[int, int], limits: Mapping[int, int] | None = None
) -> list[Asked[Any]]:
    """What `add` does, to be done by `ask`, last of all.

    If a sum were above the backend's limit then, the database refuses, and `transact` does the
    whole transaction again, which sees what others have promised meanwhile.
    """
    return [
        _ADD(backend_id=backend_id, bytes=difference, most=(limits or {}).get(backend_id))
        for backend_id, difference in sorted(bytes_by_backend.items())
        if difference
    ]


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
