"""Outages: since when a backend is out of reach, and the jobs that wait for its return."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import or_, select, update

from orchestrator.domain.actors import ENGINE
from orchestrator.domain.errors import Outage
from orchestrator.domain.states import EventKind, JobState
from orchestrator.history.events import Event, record
from orchestrator.jobs.lanes import promote
from orchestrator.jobs.queued import Wake
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, jobs
from orchestrator.store.transaction import Transaction

#: Jobs let go in one transaction.
_AT_ONCE = 500


def out_of_reach(transaction: Transaction, among_these: Iterable[int]) -> list[int]:
    """Those of these backends that somebody could not reach."""
    found = select(backends.c.id).where(
        backends.c.id.in_(list(among_these)), backends.c.unavailable_since.is_not(None)
    )
    return sorted(transaction.execute(found).scalars())


def begins(transaction: Transaction, backend_id: int, problem: Outage) -> bool:
    """Note that a backend is out of reach; False if that is known already."""
    name = transaction.execute(
        update(backends)
        .where(backends.c.id == backend_id, backends.c.unavailable_since.is_(None))
        .values(unavailable_since=db_now(), error=problem.job_error())
        .returning(backends.c.name)
    ).scalar()
    if name is None:
        return False
    _tell(transaction, EventKind.BACKEND_UNAVAILABLE, name, {"error": problem.job_error()})
    return True


def ends(transaction: Transaction, backend_id: int) -> bool:
    """Note that a backend answers; False if it was not out of reach."""
    row = transaction.execute(
        select(backends.c.name, backends.c.unavailable_since)
        .where(backends.c.id == backend_id)
        .with_for_update()
    ).one()
    if row.unavailable_since is None:
        return False
    transaction.execute(
        update(backends)
        .where(backends.c.id == backend_id)
        .values(unavailable_since=None, error=None)
    )
    _tell(
        transaction,
        EventKind.BACKEND_AVAILABLE,
        row.name,
        {"since": row.unavailable_since.isoformat()},
    )
    return True


def let_go(transaction: Transaction, backend: str) -> Wake:
    """Let jobs run that waited for this backend, or for the source of a copy there; a bounded
    number of them. What was queued; nothing if there are no such jobs."""
    error, params = jobs.c.error["code"], jobs.c.params["source_backend"]
    backend_id = select(backends.c.id).where(backends.c.name == backend).scalar_subquery()
    waiting = (
        select(jobs.c.id)
        .where(
            jobs.c.state == JobState.WAITING,
            jobs.c.not_before.is_not(None),
            jobs.c.begun,
            error.as_string() == Outage.code,
            or_(jobs.c.backend_id == backend_id, params.as_string() == backend),
        )
        .order_by(jobs.c.id)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    ids = list(transaction.execute(waiting).scalars())
    if not ids:
        return {}
    transaction.execute(update(jobs).where(among(jobs.c.id, ids)).values(not_before=db_now()))
    return promote(transaction, ids)


def _tell(transaction: Transaction, kind: EventKind, backend: str, data: dict[str, Any]) -> None:
    now = transaction.execute(select(db_now())).scalar_one()
    record(transaction, [Event(kind=kind, actor=ENGINE, backend=backend, data=data)], now)
