"""The book of schedules: who made them, how they were changed, what they are like."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from orchestrator.actions.registry import ACTIONS
from orchestrator.actions.schedules import ScheduleSpec, check_schedule
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import AlreadyExists, NotAllowed, UnknownSchedule
from orchestrator.domain.states import EventKind, JobState
from orchestrator.history.events import Event, record
from orchestrator.inventory.backends import backend_id
from orchestrator.schedules.timing import upcoming
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, installation, jobs, schedule_jobs, schedules
from orchestrator.store.transaction import Transaction

View = dict[str, Any]

#: What a person decides about a schedule, as it is shown.
_DECIDED = ("cron", "action", "backend", "volumes", "params", "keep", "enabled", "reason")
#: Jobs that failed, which are told one by one.
_TOLD = 20

_SCHEDULES = select(schedules, backends.c.name.label("backend")).outerjoin(
    backends, backends.c.id == schedules.c.backend_id
)


def list_schedules(transaction: Transaction, *, after: str | None, limit: int) -> list[View]:
    """Schedules in the order of their names, above the name ``after``."""
    query = _SCHEDULES.order_by(schedules.c.name).limit(limit)
    if after is not None:
        query = query.where(schedules.c.name > after)
    return [_view(row) for row in transaction.execute(query)]


def schedule_view(transaction: Transaction, name: str) -> View:
    """A schedule, with what became of the jobs of its last run. Raises `UnknownSchedule`."""
    row = schedule_row(transaction, name)
    return {**_view(row), **_last_jobs(transaction, row)}


def schedule_row(transaction: Transaction, name: str) -> Row[Any]:
    """The row, with the name of its ``backend``. Raises `UnknownSchedule`."""
    row = transaction.execute(_SCHEDULES.where(schedules.c.name == name)).first()
    if row is None:
        raise UnknownSchedule(f"there is no schedule {name!r}", field="name")
    return row


def put(
    transaction: Transaction, name: str, spec: ScheduleSpec, actor: Actor, *, replace: bool
) -> View:
    """Make a schedule, or give the one of this name new contents.

    Raises `AlreadyExists` without ``replace``, `UnknownBackend`, `NotAllowed`, and what
    `check_schedule` raises.
    """
    spec = check_schedule(spec)
    if (action := ACTIONS.get(spec.action)) and not actor.role.includes(action.role):
        raise NotAllowed(
            f"{action.name} needs the role {action.role}; this token has the role {actor.role}"
        )
    now = _hold(transaction)
    row = transaction.execute(_SCHEDULES.where(schedules.c.name == name)).first()
    if row is not None and not replace:
        raise AlreadyExists(
            f"there is a schedule {name!r} already: say replace, or choose another name",
            field="name",
        )
    after = spec.model_dump(mode="json", exclude={"backend"})
    after["backend_id"] = None if spec.backend is None else backend_id(transaction, spec.backend)
    if row is None:
        made = {"name": name, "created_by": actor.name, "created_at": now}
        made["next_at"] = upcoming(transaction, 0, spec.cron, None, now)
        transaction.execute(insert(schedules).values(**after, **made))
        _tell(transaction, EventKind.SCHEDULE_CREATED, actor, name, None, now)
    else:
        if after["action"] != row.action:
            after["last_result"] = None
        _change(transaction, row, after, actor, now)
    return schedule_view(transaction, name)


def set_enabled(transaction: Transaction, name: str, enabled: bool, actor: Actor) -> View:
    """Let a schedule run or not. What it misses meanwhile is not caught up."""
    now = _hold(transaction)
    _change(transaction, schedule_row(transaction, name), {"enabled": enabled}, actor, now)
    return schedule_view(transaction, name)


def remove(transaction: Transaction, name: str, actor: Actor) -> None:
    """Remove a schedule; its jobs and what they made stay. Raises `UnknownSchedule`."""
    now = _hold(transaction)
    row = schedule_row(transaction, name)
    transaction.execute(delete(schedules).where(schedules.c.id == row.id))
    _tell(transaction, EventKind.SCHEDULE_REMOVED, actor, name, row, now)


def _hold(transaction: Transaction) -> datetime:
    """Have one change at a time; the moment of it."""
    query = select(db_now()).select_from(installation).with_for_update()
    now: datetime = transaction.execute(query).scalar_one()
    return now


def _change(
    transaction: Transaction, row: Row[Any], values: dict[str, Any], actor: Actor, now: datetime
) -> None:
    changed = {name: value for name, value in values.items() if getattr(row, name) != value}
    if not changed:
        return
    if changed.keys() & {"cron", "enabled"}:
        # What was missed while it was another one, or none, is not caught up.
        cron = values.get("cron", row.cron)
        changed["next_at"] = upcoming(transaction, row.id, cron, row.last_due_at, now)
    transaction.execute(update(schedules).where(schedules.c.id == row.id).values(**changed))
    _tell(transaction, EventKind.SCHEDULE_CHANGED, actor, row.name, row, now)


def _tell(
    transaction: Transaction,
    kind: EventKind,
    actor: Actor,
    name: str,
    before: Row[Any] | None,
    now: datetime,
) -> None:
    there = transaction.execute(_SCHEDULES.where(schedules.c.name == name)).first()
    data: dict[str, Any] = {"schedule": name}
    for word, row in (("before", before), ("after", there)):
        if row is not None:
            data[word] = {column: getattr(row, column) for column in _DECIDED}
    backend = (there or before).backend  # type: ignore[union-attr]
    record(transaction, [Event(kind=kind, actor=actor.name, backend=backend, data=data)], now)


def _view(row: Row[Any]) -> View:
    told = {name: getattr(row, name) for name in _DECIDED}
    return {
        "name": row.name,
        **told,
        "created_by": row.created_by,
        "created_at": row.created_at,
        "next_at": row.next_at if row.enabled else None,
        "last_run_at": row.last_run_at,
        "last_result": row.last_result,
    }


def _last_jobs(transaction: Transaction, row: Row[Any]) -> Mapping[str, Any]:
    """How many jobs of the last run are in each state, and some that failed."""
    due = (row.last_result or {}).get("due_at")
    if due is None:
        return {"last_jobs": {}, "failed": []}
    theirs = (
        schedule_jobs.c.schedule_id == row.id,
        schedule_jobs.c.due_at == datetime.fromisoformat(due),
    )
    together = schedule_jobs.join(jobs, jobs.c.id == schedule_jobs.c.job_id)
    counts = transaction.execute(
        select(jobs.c.state, func.count()).select_from(together).where(*theirs)
        .group_by(jobs.c.state)
    )  # fmt: skip
    states: dict[str, int] = dict(counts.all())
    failed = transaction.execute(
        select(jobs.c.id, jobs.c.action, jobs.c.volume, jobs.c.snapshot, jobs.c.error)
        .select_from(together)
        .where(*theirs, jobs.c.state.in_([JobState.FAILED, JobState.CANCELED]))
        .order_by(jobs.c.id)
        .limit(_TOLD)
    )
    return {"last_jobs": states, "failed": [one._asdict() for one in failed]}
