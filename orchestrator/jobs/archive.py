"""Archives: ended jobs leave the database for compressed files, a JSON document a line."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select

from orchestrator.domain.actors import ENGINE
from orchestrator.domain.errors import WrongState
from orchestrator.domain.states import FINISHED, EventKind
from orchestrator.history.events import Event, record
from orchestrator.jobs.views import job_views, not_there
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.files import write_lines
from orchestrator.store.tables import job_archivals, jobs
from orchestrator.store.transaction import Transaction

#: Jobs archived in one transaction, which are one file.
AT_ONCE = 500


def ask_for(transaction: Transaction, ids: Sequence[int]) -> int:
    """Have these jobs archived soon; how many that are.

    Raises `UnknownJob`, `Gone`, and `WrongState` if one has not ended.
    """
    wanted = set(ids)
    found = dict(
        transaction.execute(select(jobs.c.id, jobs.c.state).where(among(jobs.c.id, wanted))).all()
    )
    for job_id in sorted(wanted):
        if job_id not in found:
            raise not_there(transaction, "job", job_id)
        if found[job_id] not in FINISHED:
            raise WrongState(
                f"job {job_id} is {found[job_id]}: only jobs that have ended are archived",
                field="jobs",
            )
    return _ask(transaction, among(jobs.c.id, wanted))


def ask_for_older(transaction: Transaction, moment: datetime) -> int:
    """Have all jobs archived soon that ended before ``moment``; how many that are."""
    return _ask(transaction, jobs.c.state.in_(FINISHED) & (jobs.c.finished_at < moment))


def _ask(transaction: Transaction, condition: Any) -> int:
    wanted = select(jobs.c.id).where(condition)
    marked = (
        transaction.insert(job_archivals).from_select(["job_id"], wanted).on_conflict_do_nothing()
    )
    return transaction.execute(marked, execution_options={"preserve_rowcount": True}).rowcount


def archive(transaction: Transaction, directory: Path, *, older_than_days: float | None) -> int:
    """Move some of the jobs that are due out of the database; returns how many.

    Due are those that somebody asked for, and those that ended ``older_than_days`` ago. The
    file is on the disk before the transaction ends; if that fails, the jobs are archived once
    more, in another file.
    """
    asked = select(job_archivals.c.job_id).order_by(job_archivals.c.job_id).limit(AT_ONCE)
    ids = list(transaction.execute(asked).scalars())
    if older_than_days is not None and len(ids) < AT_ONCE:
        old = (
            select(jobs.c.id)
            .where(
                jobs.c.state.in_(FINISHED),
                jobs.c.finished_at < db_now(-older_than_days * 86400.0),
            )
            .order_by(jobs.c.id)
            .limit(AT_ONCE)
        )
        ids = sorted({*ids, *transaction.execute(old).scalars()})
    views = job_views(transaction, ids)
    if not views:
        return 0
    name = f"jobs-{min(views)}-{max(views)}-{uuid.uuid4().hex[:8]}.jsonl.gz"
    write_lines(directory, name, views.values())
    transaction.execute(delete(jobs).where(among(jobs.c.id, list(views))))
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    told = {"jobs": len(views), "first": min(views), "last": max(views), "file": name}
    record(transaction, [Event(kind=EventKind.JOBS_ARCHIVED, actor=ENGINE, data=told)], now)
    return len(views)
