"""Rates: how many attempts at an action are made on a backend in a time, all workers together.

Attempts keep a distance of one interval. One that comes too early is given a turn of its own,
behind those of other unfinished jobs, and is put off until then; what it holds, it keeps.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import bindparam, delete, func, insert, select, text, update

from orchestrator.store.columns import UtcDateTime, db_now
from orchestrator.store.tables import job_turns, jobs, rates
from orchestrator.store.transaction import Transaction

#: Does nothing where another has just begun.
_BEGIN = text(
    "INSERT INTO rates (backend_id, action, last_at) VALUES (:backend, :action, :at)"
    " ON CONFLICT DO NOTHING"
).bindparams(bindparam("at", type_=UtcDateTime))


def take_allowance(
    transaction: Transaction, *, backend_id: int, action: str, job_id: int, interval: float
) -> float:
    """Seconds until the job may go on; 0 if its turn has come. ``interval`` is in seconds."""
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    apart = timedelta(seconds=interval)
    transaction.execute(_BEGIN, {"backend": backend_id, "action": action, "at": now - apart})
    mine = (rates.c.backend_id == backend_id) & (rates.c.action == action)
    last = transaction.execute(select(rates.c.last_at).where(mine).with_for_update()).scalar_one()
    own = select(job_turns.c.at).where(job_turns.c.job_id == job_id)
    turn: datetime | None = transaction.execute(own).scalar()
    if turn is None:
        promised = transaction.execute(
            select(func.max(job_turns.c.at))
            .join(jobs, jobs.c.id == job_turns.c.job_id)
            .where(
                job_turns.c.backend_id == backend_id,
                job_turns.c.action == action,
                jobs.c.finished_at.is_(None),
            )
        ).scalar()
        turn = max(last, promised or last) + apart
        if turn > now:
            transaction.execute(
                insert(job_turns).values(
                    job_id=job_id, backend_id=backend_id, action=action, at=turn
                )
            )
    if turn > now:
        return (turn - now).total_seconds()
    transaction.execute(delete(job_turns).where(job_turns.c.job_id == job_id))
    transaction.execute(update(rates).where(mine).values(last_at=now))
    return 0.0


def forget_turns(transaction: Transaction) -> int:
    """Strike the turns of jobs that have ended without them; returns how many."""
    ended = select(jobs.c.finished_at).where(jobs.c.id == job_turns.c.job_id).scalar_subquery()
    return transaction.execute(delete(job_turns).where(ended.is_not(None))).rowcount
