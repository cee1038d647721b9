"""What the scheduler does about schedules: runs what is due, and notes what came of it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select, update

from orchestrator.actions.schedules import EXPORT
from orchestrator.domain.errors import InvalidInput
from orchestrator.ledger.event_files import export
from orchestrator.schedules.running import Run, SendWake, run, written
from orchestrator.schedules.timing import Schedule, asleep, due_schedules, hold, note_run, wake
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import schedules
from orchestrator.store.transaction import Transaction

log = structlog.get_logger(__name__)


def run_due(
    database: Database,
    *,
    max_attempts: int,
    exports: Path,
    send: SendWake,
    now: datetime | None = None,
) -> int:
    """Run every schedule that is due at ``now`` (the database's, if absent); how many that are.

    One that fails does not keep the others from being run, and is tried again at the next call.
    """
    with database.read() as transaction:
        now = now or transaction.execute(select(db_now())).scalar_one()
        found = due_schedules(transaction, now)
    for one in found:
        try:
            if one.action == EXPORT:
                _export(database, one, now, exports)
            else:
                _submit(database, one, now, max_attempts, send)
        except Exception as error:
            log.warning("schedule.not_run", schedule=one.name, error=str(error))
    return len(found)


def mend_schedules(database: Database, now: datetime | None = None) -> None:
    """Wake schedules that wait for a time which a clock that was ahead has found."""

    with database.read() as transaction:
        now = now or transaction.execute(select(db_now())).scalar_one()
        found = asleep(transaction, now)
    for one, right in found:
        if database.transact(lambda transaction: wake(transaction, one, right)):  # noqa: B023
            log.warning("schedule.clock_went_back", schedule=one.name, next_at=written(right))


def _submit(
    database: Database, schedule: Schedule, now: datetime, max_attempts: int, send: SendWake
) -> None:
    due = schedule.due_at(now)
    try:
        outcome = run(database, schedule, due, max_attempts=max_attempts, wake=send)
    except InvalidInput as problem:
        # What was right when the schedule was made is not any more: told at each period.
        outcome = Run(due)
        outcome.refuse(None, None, problem)
    result = outcome.result()
    if database.transact(lambda transaction: note_run(transaction, schedule, due, result, now)):
        told = {name: result[name] for name in ("due_at", "submitted", "deletions", "jobs")}
        log.info("schedule.run", schedule=schedule.name, refused=outcome.refused_in_all, **told)
        for one in outcome.refused:
            log.warning("schedule.refused", schedule=schedule.name, **one)


def _export(database: Database, schedule: Schedule, now: datetime, directory: Path) -> None:
    """Write what has happened since the last export, in as many files as it takes."""
    due = schedule.due_at(now)
    try:
        while database.transact(
            lambda transaction: _export_some(transaction, schedule, due, now, directory)
        ):
            pass
    except OSError as error:
        # It is told, and tried again at the next period: what is left out now comes then.
        why = str(error)
        database.transact(lambda transaction: _note_failed(transaction, schedule, due, now, why))
        log.warning("schedule.export_failed", schedule=schedule.name, error=why)


def _note_failed(
    transaction: Transaction, schedule: Schedule, due: datetime, now: datetime, why: str
) -> None:
    if (row := hold(transaction, schedule)) is not None:
        result = {**_result_so_far(row.last_result, due), "error": why}
        note_run(transaction, schedule, due, result, now)


def _export_some(
    transaction: Transaction, schedule: Schedule, due: datetime, now: datetime, directory: Path
) -> bool:
    """One file; whether there may be more. The row is locked, so that only one writes it."""
    row = hold(transaction, schedule)
    if row is None:
        return False
    so_far = _result_so_far(row.last_result, due)
    found = export(transaction, directory, so_far["last"])
    if found is None:
        note_run(transaction, schedule, due, so_far, now)
        return False
    events = so_far["events"] + found.last - found.first + 1
    result = {**so_far, **asdict(found), "events": events}
    result["first"] = so_far.get("first", found.first)
    transaction.execute(
        update(schedules).where(schedules.c.id == schedule.id).values(last_result=result)
    )
    return True


def _result_so_far(before: Any, due: datetime) -> dict[str, Any]:
    """What was exported for this period, and with which number the last export ended."""
    before = before or {}
    told = written(due)
    if before.get("due_at") == told:
        return {name: value for name, value in before.items() if name != "error"}
    return {"due_at": told, "events": 0, "last": before.get("last", 0)}
