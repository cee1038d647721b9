"""A run that a person asks for, now, whatever the time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update

from orchestrator.actions.schedules import EXPORT
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import IdempotencyMismatch, WrongState
from orchestrator.domain.states import EventKind
from orchestrator.history.events import Event, record
from orchestrator.schedules.book import schedule_row
from orchestrator.schedules.running import SendWake, run, written
from orchestrator.schedules.timing import Schedule, later, schedule_of
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import idempotency_keys, schedule_jobs, schedules
from orchestrator.store.transaction import Transaction

View = dict[str, Any]


def run_now(
    database: Database,
    name: str,
    actor: Actor,
    *,
    max_attempts: int,
    wake: SendWake,
    key: str | None = None,
) -> View:
    """Run a schedule now; the ids of its jobs, and what was refused.

    It runs at its next time all the same. With a ``key`` that was used before, the run of then
    is finished and answered. An export is done by the scheduler, within seconds. Raises
    `UnknownSchedule`, `IdempotencyMismatch`, and `WrongState` for an export that is disabled.
    """
    with database.read() as transaction:
        row = schedule_row(transaction, name)
        schedule = schedule_of(row)
        now: datetime = transaction.execute(select(db_now())).scalar_one()
        given = None if key is None else _Key(actor.name, key, schedule.id)
        due = given.due(transaction) if given else None
    if schedule.action == EXPORT:
        database.transact(lambda transaction: _bring_forward(transaction, name, actor))
        return {"due_at": written(now), "job_ids": [], "result": None}
    due = due or now.replace(microsecond=0)
    try:
        outcome = run(
            database, schedule, due, max_attempts=max_attempts, wake=wake, beside=given,
        )  # fmt: skip
    except _TakenError as taken:
        outcome = run(database, schedule, taken.due, max_attempts=max_attempts, wake=wake)
    result = outcome.result()
    database.transact(lambda transaction: _note(transaction, schedule, outcome.due, result, actor))
    return {
        "due_at": written(outcome.due),
        "job_ids": outcome.job_ids,
        "result": result,
    }


class _TakenError(Exception):
    """The same key came twice at once, and the other was first."""

    def __init__(self, due: datetime) -> None:
        super().__init__()
        self.due = due


class _Key:
    """An idempotency key, which stands for the run that it was used for first."""

    def __init__(self, owner: str, key: str, schedule_id: int) -> None:
        self._owner, self._key, self._schedule_id = owner, key, schedule_id
        self._digest = hashlib.sha256(f"schedule run {schedule_id}".encode()).hexdigest()

    def due(self, transaction: Transaction) -> datetime | None:
        """For when that run was. Raises `IdempotencyMismatch` if it was used for another thing."""
        found = transaction.execute(
            select(idempotency_keys.c.request_digest, schedule_jobs.c.due_at)
            .outerjoin(schedule_jobs, schedule_jobs.c.job_id == idempotency_keys.c.job_id)
            .where(idempotency_keys.c.owner == self._owner, idempotency_keys.c.key == self._key)
        ).first()
        if found is None:
            return None
        if found.request_digest != self._digest:
            raise IdempotencyMismatch(field="Idempotency-Key")
        due: datetime = found.due_at
        return due

    def __call__(self, transaction: Transaction, due: datetime, new: Sequence[int]) -> None:
        """Keep it with the first job of the run for ``due``, in the transaction of that job."""
        if not new:
            return
        kept = transaction.execute(
            transaction.insert(idempotency_keys)
            .values(
                owner=self._owner,
                key=self._key,
                request_digest=self._digest,
                job_id=new[0],
                created_at=db_now(),
            )
            .on_conflict_do_nothing()
        )
        if kept.rowcount == 0 and (first := self.due(transaction)) not in (None, due):
            raise _TakenError(first)


def _note(
    transaction: Transaction, schedule: Schedule, due: datetime, result: View, actor: Actor
) -> None:
    query = (
        select(schedules.c.last_due_at, db_now().label("now"))
        .where(schedules.c.id == schedule.id)
        .with_for_update()
    )
    row = transaction.execute(query).first()
    if row is None:
        return
    values = {"last_due_at": later(row.last_due_at, due), "last_run_at": row.now}
    transaction.execute(
        update(schedules).where(schedules.c.id == schedule.id).values(**values, last_result=result)
    )
    _tell(transaction, schedule, actor, due, row.now)


def _bring_forward(transaction: Transaction, name: str, actor: Actor) -> None:
    row = schedule_row(transaction, name)
    if not row.enabled:
        raise WrongState(
            f"schedule {name!r} is disabled, and the scheduler does what it does: enable it first",
            field="name",
        )
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    transaction.execute(update(schedules).where(schedules.c.id == row.id).values(next_at=now))
    _tell(transaction, schedule_of(row), actor, now, now)


def _tell(
    transaction: Transaction, schedule: Schedule, actor: Actor, due: datetime, now: datetime
) -> None:
    data = {"schedule": schedule.name, "due_at": written(due)}
    event = Event(
        kind=EventKind.SCHEDULE_RUN, actor=actor.name, backend=schedule.backend, data=data
    )
    record(transaction, [event], now)
