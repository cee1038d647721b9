"""Whether new jobs are taken at all: an administrator can drain the whole queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select, update

from orchestrator.domain.states import EventKind, JobState
from orchestrator.history.events import Event, record
from orchestrator.store.columns import db_now
from orchestrator.store.tables import installation, jobs
from orchestrator.store.transaction import Transaction


def set_accepting(
    transaction: Transaction, accepting: bool, actor: str, reason: str | None
) -> Mapping[str, Any]:
    """Take new jobs from now on, or none; jobs that were accepted go on in both cases."""
    query = select(installation.c.accepting, db_now().label("now")).with_for_update()
    before = transaction.execute(query).one()
    if before.accepting != accepting:
        transaction.execute(update(installation).values(accepting=accepting))
        kind = EventKind.QUEUE_RESUMED if accepting else EventKind.QUEUE_DRAINED
        record(transaction, [Event(kind=kind, actor=actor, reason=reason)], before.now)
    return queue_view(transaction)


def queue_view(transaction: Transaction) -> dict[str, Any]:
    """Whether new jobs are taken, and how many unfinished ones there are, by state."""
    counts: dict[str, int] = dict(
        transaction.execute(
            select(jobs.c.state, func.count())
            .where(jobs.c.finished_at.is_(None))
            .group_by(jobs.c.state)
        ).all()
    )
    states = (JobState.WAITING, JobState.QUEUED, JobState.RUNNING)
    return {
        "accepting": transaction.execute(select(installation.c.accepting)).scalar_one(),
        "unfinished": {state: counts.get(state, 0) for state in states},
    }
