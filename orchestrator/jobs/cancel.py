"""Cancel, and change of priority: what may be done to a job from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from orchestrator.actions.registry import ACTIONS, intent_of
from orchestrator.domain.errors import JobEnded
from orchestrator.domain.states import Ending, EventKind, JobState
from orchestrator.history.events import Event, job_event, record
from orchestrator.jobs.finish import Finished, cancel_unbegun
from orchestrator.jobs.giving_up import end_failed, nobody_comes
from orchestrator.jobs.lanes import promote
from orchestrator.jobs.queued import together
from orchestrator.jobs.views import batch_view, not_there
from orchestrator.resources.changes import Change, apply
from orchestrator.resources.registry import RESOURCES
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, job_attempts, job_steps, jobs
from orchestrator.store.targets import JOB
from orchestrator.store.transaction import Transaction


def _held(transaction: Transaction, job_id: int) -> Any:
    """The job's row, locked against its end. Raises `UnknownJob`."""
    row = (
        transaction.execute(
            select(*JOB, backends.c.name.label("backend"))
            .join(backends, backends.c.id == jobs.c.backend_id)
            .where(jobs.c.id == job_id)
            .with_for_update(of=jobs)
        )
        .mappings()
        .first()
    )
    if row is None:
        raise not_there(transaction, "job", job_id)
    return row


def _untouched(transaction: Transaction, rows: Sequence[Any]) -> list[Any]:
    """Those of these jobs that have changed nothing yet and do not run: they can simply end."""
    still = [row for row in rows if row["state"] != JobState.RUNNING]
    begun = [row for row in still if row["begun"]]
    if not begun:
        return still
    ids = among(job_steps.c.job_id, [row["id"] for row in begun])
    journaled = set(transaction.execute(select(job_steps.c.job_id).where(ids).distinct()).scalars())
    makers = [row["id"] for row in begun if ACTIONS[row["action"]].creates]
    harmless = _harmless_attempts(transaction, makers)
    return [
        row
        for row in still
        if not row["begun"]
        or (
            row["id"] not in journaled
            # A worker takes away what it may have made.
            and (row["id"] not in makers or harmless[row["id"]] == row["claims"])
        )
    ]


def _harmless_attempts(transaction: Transaction, makers: list[int]) -> Counter[int]:
    """How many attempts of each job came to nothing before they had begun anything."""
    if not makers:
        return Counter()
    found = transaction.execute(
        select(job_attempts.c.job_id, job_attempts.c.outcome, job_attempts.c.error).where(
            among(job_attempts.c.job_id, makers),
            job_attempts.c.outcome.in_((Ending.LIMITED, Ending.OUTAGE)),
        )
    )
    return Counter(
        row.job_id
        for row in found
        if (row.outcome == Ending.LIMITED and row.error is None)
        or (row.outcome == Ending.OUTAGE and row.error.get("touched") is False)
    )


def _cancel_untouched(
    transaction: Transaction, rows: Sequence[Any], actor: str, now: datetime
) -> Finished:
    """End jobs that have changed nothing; the rows of what they were to make go with them."""
    born: list[Change] = []
    for row in rows:
        if row["begun"] and ACTIONS[row["action"]].creates:
            made = RESOURCES[ACTIONS[row["action"]].kind]
            born.append(made.gone(intent_of(row, row["backend"]).id_of(made.kind) or ""))
    room = apply(transaction, born, now) if born else None
    return cancel_unbegun(transaction, rows, actor, now, room)


def cancel(transaction: Transaction, job_id: int, actor: str) -> Finished:
    """Cancel a job: at once if it has changed nothing, else at its next safe point.

    One that has begun and waits for a backend out of reach waits on, so that its end can be told;
    canceled once more, it ends without that.

    Raises `UnknownJob`, and `JobEnded` if there is nothing left to cancel.
    """
    row = _held(transaction, job_id)
    if row["finished_at"] is not None:
        raise JobEnded(f"job {job_id} has already {_said(row['state'])}", state=row["state"])
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    if _untouched(transaction, [row]):
        return _cancel_untouched(transaction, [row], actor, now)
    if given_up := nobody_comes(transaction, [row], now):
        record(transaction, [_event(row, EventKind.JOB_CANCEL_REQUESTED, actor, {})], now)
        return end_failed(transaction, given_up, now)
    if row["cancel_requested_at"] is None:
        transaction.execute(
            update(jobs)
            .where(jobs.c.id == job_id)
            # A begun job in back-off is taken up now, so that a worker can clean up.
            .values(cancel_requested_at=now, not_before=None)
        )
        record(transaction, [_event(row, EventKind.JOB_CANCEL_REQUESTED, actor, {})], now)
    return Finished([], [], promote(transaction, [job_id]), [])


def cancel_batch(transaction: Transaction, batch_id: int, actor: str) -> Finished:
    """Cancel every job of a batch that has not ended.

    The jobs are locked in the order of their ids, and those not begun end together. Raises
    `UnknownJob`, and `JobEnded` if there is nothing left to cancel.
    """
    batch_view(transaction, batch_id)
    rows = (
        transaction.execute(
            select(*JOB, backends.c.name.label("backend"))
            .join(backends, backends.c.id == jobs.c.backend_id)
            .where(jobs.c.batch_id == batch_id, jobs.c.finished_at.is_(None))
            .order_by(jobs.c.id)
            .with_for_update(of=jobs)
        )
        .mappings()
        .all()
    )
    if not rows:
        state = batch_view(transaction, batch_id)["state"]
        raise JobEnded(f"batch {batch_id} has already {_said(state)}", state=state)
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    untouched = _untouched(transaction, rows)
    ending = {row["id"] for row in untouched}
    given_up = nobody_comes(transaction, [row for row in rows if row["id"] not in ending], now)
    ending.update(row["id"] for row, _ in given_up)
    begun = [
        row["id"] for row in rows if row["id"] not in ending and row["cancel_requested_at"] is None
    ]
    if begun:
        transaction.execute(
            update(jobs)
            .where(among(jobs.c.id, begun))
            .values(cancel_requested_at=now, not_before=None)
        )
        asked = set(begun)
        record(
            transaction,
            [
                _event(row, EventKind.JOB_CANCEL_REQUESTED, actor, {})
                for row in rows
                if row["id"] in asked
            ],
            now,
        )
    wake = promote(transaction, begun)
    left = end_failed(transaction, given_up, now)
    ended = _cancel_untouched(transaction, untouched, actor, now)
    return Finished(
        ended_jobs=sorted({*left.ended_jobs, *ended.ended_jobs}),
        ended_batches=sorted({*left.ended_batches, *ended.ended_batches}),
        wake=together(wake, left.wake, ended.wake),
        lost=[],
    )


def set_priority(transaction: Transaction, job_id: int, priority: int, actor: str) -> None:
    """Change the priority of a job that has not ended. Raises `UnknownJob`, `JobEnded`."""
    row = _held(transaction, job_id)
    if row["finished_at"] is not None:
        raise JobEnded(f"job {job_id} has already {_said(row['state'])}", state=row["state"])
    if row["priority"] == priority:
        return
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    transaction.execute(update(jobs).where(jobs.c.id == job_id).values(priority=priority))
    changed = {"before": {"priority": row["priority"]}, "after": {"priority": priority}}
    record(transaction, [_event(row, EventKind.JOB_PRIORITY, actor, changed)], now)


def _said(state: str) -> str:
    return {JobState.CANCELED: "been canceled"}.get(JobState(state), state)


def _event(row: Any, kind: EventKind, actor: str, data: dict[str, Any]) -> Event:
    return job_event(row, kind, actor, data, backend=row["backend"])
