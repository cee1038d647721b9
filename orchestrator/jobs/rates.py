"""Rates: how many attempts at an action are made on a backend in a time, all workers together.

Attempts keep a distance of one interval. One that comes too early is given a turn of its own,
the next one that is free, and is put off until then; what it holds, it keeps meanwhile.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, insert, select, text, update

from orchestrator.store.columns import UtcDateTime, db_now
from orchestrator.store.tables import job_turns, rates

#: Does nothing where another has just begun.
_BEGIN = text(
    "INSERT INTO rates (backend_id, action, next_at) VALUES (:backend, :action, :now)"
    " ON CONFLICT DO NOTHING"
).bindparams(bindparam("now", type_=UtcDateTime))


def take_turn(
    connection: Connection, *, backend_id: int, action: str, job_id: int, interval: float
) -> float:
    """Seconds until the job may go on; 0 if its turn has come. ``interval`` is in seconds."""
    if connection.execute(delete(job_turns).where(job_turns.c.job_id == job_id)).rowcount:
        return 0.0
    now: datetime = connection.execute(select(db_now())).scalar_one()
    named = {"backend": backend_id, "action": action, "now": now}
    connection.execute(_BEGIN, named)
    mine = (rates.c.backend_id == backend_id) & (rates.c.action == action)
    free = connection.execute(select(rates.c.next_at).where(mine).with_for_update()).scalar_one()
    turn = max(now, free)
    following = turn + timedelta(seconds=interval)
    connection.execute(update(rates).where(mine).values(next_at=following))
    if turn <= now:
        return 0.0
    connection.execute(insert(job_turns).values(job_id=job_id))
    wait: timedelta = turn - now
    return wait.total_seconds()
