"""When schedules run: each period once, whatever the clock does.

A schedule's ``next_at`` is the next period that it will run for. It only moves on once the run
for it is noted, so one that was broken off is taken up again; and it moves past every period
that the schedule has run for already, so a clock that goes back repeats none. Of periods that
were missed, the latest is run for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, exists, select, update

from orchestrator.domain.cron import following, latest
from orchestrator.domain.keeping import Keep
from orchestrator.store.tables import backends, schedule_jobs, schedules
from orchestrator.store.transaction import Transaction

#: Periods ahead that may be passed over at once, because they were run for already.
_MOST_PASSED = 100


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A schedule as it was read."""

    id: int
    name: str
    cron: str
    action: str
    backend_id: int | None
    backend: str | None
    volumes: list[str] | None
    params: Mapping[str, Any]
    keep: Keep | None
    next_at: datetime
    last_due_at: datetime | None
    last_result: Mapping[str, Any] | None

    def due_at(self, now: datetime) -> datetime:
        """The period to run for: of those that have come, the latest."""
        last = latest(self.cron, now)
        return self.next_at if last == self.last_due_at else max(last, self.next_at)


_SCHEDULES = select(schedules, backends.c.name.label("backend")).outerjoin(
    backends, backends.c.id == schedules.c.backend_id
)


def due_schedules(transaction: Transaction, now: datetime) -> list[Schedule]:
    """Those whose time has come."""
    return _read(transaction, schedules.c.next_at <= now)


def _read(transaction: Transaction, condition: Any) -> list[Schedule]:
    query = _SCHEDULES.where(schedules.c.enabled, condition).order_by(schedules.c.next_at)
    return [schedule_of(row) for row in transaction.execute(query)]


def schedule_of(row: Row[Any]) -> Schedule:
    """What a row says, which has the columns of `schedules` and the name of the ``backend``."""
    return Schedule(
        id=row.id,
        name=row.name,
        cron=row.cron,
        action=row.action,
        backend_id=row.backend_id,
        backend=row.backend,
        volumes=row.volumes,
        params=row.params,
        keep=None if row.keep is None else Keep.model_validate(row.keep),
        next_at=row.next_at,
        last_due_at=row.last_due_at,
        last_result=row.last_result,
    )


def upcoming(
    transaction: Transaction, id_: int, cron: str, last_due_at: datetime | None, now: datetime
) -> datetime:
    """The first period after ``now`` that the schedule has not run for."""
    found = following(cron, now)
    for _ in range(_MOST_PASSED):
        if found != last_due_at and not _has_run(transaction, id_, found):
            break
        found = following(cron, found)
    return found


def _has_run(transaction: Transaction, id_: int, due: datetime) -> bool:
    query = exists().where(schedule_jobs.c.schedule_id == id_, schedule_jobs.c.due_at == due)
    return bool(transaction.execute(select(query)).scalar_one())


def asleep(transaction: Transaction, now: datetime) -> list[tuple[Schedule, datetime]]:
    """Schedules that wait for a time too far ahead, and the time that is right.

    Theirs was found while the clock was ahead of what it is now.
    """
    found: list[tuple[Schedule, datetime]] = []
    for one in _read(transaction, schedules.c.next_at > now):
        # What is right at the first glance costs no look.
        if one.next_at > following(one.cron, now):
            right = upcoming(transaction, one.id, one.cron, one.last_due_at, now)
            if right < one.next_at:
                found.append((one, right))
    return found


def wake(transaction: Transaction, seen: Schedule, next_at: datetime) -> bool:
    """Let a schedule wait for this time; whether nobody else has changed it."""
    return _move(transaction, seen, {"next_at": next_at})


def hold(transaction: Transaction, seen: Schedule) -> Row[Any] | None:
    """The row, locked until the commit; None if another scheduler or a person has changed it."""
    query = (
        select(schedules)
        .where(schedules.c.id == seen.id, schedules.c.next_at == seen.next_at)
        .with_for_update()
    )
    return transaction.execute(query).first()


def note_run(
    transaction: Transaction,
    seen: Schedule,
    due: datetime,
    result: Mapping[str, Any],
    now: datetime,
) -> bool:
    """Note that the schedule has run for ``due``; whether nobody else had done so."""
    row = hold(transaction, seen)
    if row is None:
        return False
    last = later(row.last_due_at, due)
    values = {
        **{"last_due_at": last, "last_run_at": now, "last_result": result},
        "next_at": upcoming(transaction, seen.id, row.cron, last, now),
    }
    return _move(transaction, seen, values)


def later(last: datetime | None, due: datetime) -> datetime:
    """What ``last_due_at`` becomes with a run for ``due``."""
    return due if last is None else max(last, due)


def _move(transaction: Transaction, seen: Schedule, values: Mapping[str, Any]) -> bool:
    moved = transaction.execute(
        update(schedules)
        .where(schedules.c.id == seen.id, schedules.c.next_at == seen.next_at)
        .values(**values)
    )
    return moved.rowcount == 1
