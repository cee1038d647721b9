"""Whether new jobs are taken at all: an administrator can drain the whole queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, select, update

from orchestrator.domain.states import JobState
from orchestrator.history.events import Event, record
from orchestrator.store.columns import db_now
from orchestrator.store.tables import installation, jobs


def set_accepting(
    connection: Connection, accepting: bool, actor: str, reason: str | None
) -> Mapping[str, Any]:
    """Take new jobs from now on, or none; jobs that were accepted go on in both cases."""
    query = select(installation.c.accepting, db_now().label("now")).with_for_update()
    before = connection.execute(query).one()
    if before.accepting != accepting:
        connection.execute(update(installation).values(accepting=accepting))
        kind = "queue.resumed" if accepting else "queue.drained"
        record(connection, [Event(kind=kind, actor=actor, reason=reason)], before.now)
    return queue_view(connection)


def queue_view(connection: Connection) -> dict[str, Any]:
    """Whether new jobs are taken, and how many unfinished ones there are, by state."""
    counts: dict[str, int] = dict(
        connection.execute(
            select(jobs.c.state, func.count())
            .where(jobs.c.finished_at.is_(None))
            .group_by(jobs.c.state)
        ).all()
    )
    states = (JobState.WAITING, JobState.QUEUED, JobState.RUNNING)
    return {
        "accepting": connection.execute(select(installation.c.accepting)).scalar_one(),
        "unfinished": {state: counts.get(state, 0) for state in states},
    }
