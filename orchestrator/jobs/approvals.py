"""Approvals: jobs that begin only once a person has said so.

Until then a job's time has not come, so it waits, blocks nobody, and can be canceled.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import NotAllowed, WrongState
from orchestrator.domain.states import EventKind, JobState, Role
from orchestrator.history.events import job_event, record
from orchestrator.jobs.lanes import UNAPPROVED
from orchestrator.jobs.views import not_there
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, job_approvals, jobs
from orchestrator.store.targets import JOB
from orchestrator.store.transaction import Transaction


def approve(transaction: Transaction, job_id: int, actor: Actor, reason: str | None) -> None:
    """Let a job begin, at its start time if it has one. Nothing happens if that was said before.

    Raises `NotAllowed`, `UnknownJob`, and `WrongState` if the job does not wait for that.
    """
    if not actor.role.includes(Role.ADMIN):
        raise NotAllowed(
            f"approving a job needs the role admin; this token has the role {actor.role}"
        )
    row: Any = (
        transaction.execute(
            select(*JOB, backends.c.name.label("backend"), job_approvals.c.approved_by)
            .join(backends, backends.c.id == jobs.c.backend_id)
            .join(job_approvals, job_approvals.c.job_id == jobs.c.id, isouter=True)
            .where(jobs.c.id == job_id)
            .with_for_update(of=jobs)
        )
        .mappings()
        .first()
    )
    if row is None:
        raise not_there(transaction, "job", job_id)
    if row["approved_by"] is not None:
        return
    if row["state"] != JobState.WAITING or row["not_before"] != UNAPPROVED:
        raise WrongState(
            f"job {job_id} is {row['state']} and waits for no approval", state=row["state"]
        )
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    transaction.execute(
        update(job_approvals)
        .where(job_approvals.c.job_id == job_id)
        .values(approved_by=actor.name, approved_at=now)
    )
    transaction.execute(
        update(jobs).where(jobs.c.id == job_id).values(not_before=row["run_at"] or now)
    )
    event = job_event(
        row, EventKind.JOB_APPROVED, actor.name, {}, backend=row["backend"], reason=reason
    )
    record(transaction, [event], now)
