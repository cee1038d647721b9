"""What readers see of jobs and batches: plain values, ready to be told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from orchestrator.domain.errors import UnknownJob
from orchestrator.domain.states import JobState
from orchestrator.jobs.waiting import waiting_on
from orchestrator.store.bulk import among
from orchestrator.store.tables import (
    backends,
    batches,
    job_attempts,
    job_dependencies,
    job_steps,
    jobs,
)

View = dict[str, Any]

#: Columns that a job is told with as they are.
_TOLD = (
    "id", "action", "volume", "snapshot", "policy", "host", "params", "state", "priority",
    "attempt", "max_attempts", "progress", "result", "error", "submitted_by", "reason",
    "batch_id", "ref", "retry_of", "volume_id", "run_at", "created_at", "started_at",
    "finished_at", "worker",
)  # fmt: skip


def job_views(connection: Connection, ids: Iterable[int]) -> dict[int, View]:
    """The jobs with these ids, those that there are, by id."""
    listed = sorted(set(ids))
    rows = _select(connection, among(connection, jobs.c.id, listed))
    return {view["id"]: view for view in _views(connection, rows)}


def job_view(connection: Connection, job_id: int) -> View:
    """One job. Raises `UnknownJob`."""
    found = job_views(connection, [job_id]).get(job_id)
    if found is None:
        raise UnknownJob(f"there is no job {job_id}")
    return found


def accepted_view(row: Mapping[str, Any], backend: str, depends_on: list[int]) -> View:
    """A job that was queued a moment ago, in this transaction; ``row`` as inserted."""
    return {
        **{name: row.get(name) for name in _TOLD},
        "backend": backend,
        "waiting_on": None,
        "depends_on": depends_on,
        "cancel_requested": False,
        "steps": [],
        "attempts": [],
    }


def list_jobs(
    connection: Connection,
    *,
    states: Sequence[JobState] = (),
    backend: str | None = None,
    filters: Mapping[str, Any],
    before: int | None = None,
    limit: int,
) -> list[View]:
    """Jobs, newest first, below the id ``before``."""
    conditions = [jobs.c[name] == value for name, value in filters.items()]
    if states:
        conditions.append(jobs.c.state.in_(states))
    if backend is not None:
        conditions.append(backends.c.name == backend)
    if before is not None:
        conditions.append(jobs.c.id < before)
    statement = (
        select(jobs, backends.c.name.label("backend"))
        .join(backends, backends.c.id == jobs.c.backend_id)
        .where(*conditions)
        .order_by(jobs.c.id.desc())
        .limit(limit)
    )
    return _views(connection, connection.execute(statement).mappings().all())


def list_batch_jobs(
    connection: Connection, batch_id: int, after: int | None, limit: int
) -> list[View]:
    """Jobs of a batch in the order of submission, above the id ``after``."""
    batch_view(connection, batch_id)
    rows = (
        connection.execute(
            select(jobs, backends.c.name.label("backend"))
            .join(backends, backends.c.id == jobs.c.backend_id)
            .where(jobs.c.batch_id == batch_id, jobs.c.id > (after or 0))
            .order_by(jobs.c.id)
            .limit(limit)
        )
        .mappings()
        .all()
    )
    return _views(connection, rows)


def _select(connection: Connection, condition: Any) -> Sequence[RowMapping]:
    return (
        connection.execute(
            select(jobs, backends.c.name.label("backend"))
            .join(backends, backends.c.id == jobs.c.backend_id)
            .where(condition)
            .order_by(jobs.c.id)
        )
        .mappings()
        .all()
    )


def _views(connection: Connection, rows: Sequence[RowMapping]) -> list[View]:
    ids = [row["id"] for row in rows]
    if not ids:
        return []
    waits = waiting_on(connection, rows)
    depends: dict[int, list[int]] = defaultdict(list)
    for job_id, other in connection.execute(
        select(job_dependencies.c.job_id, job_dependencies.c.depends_on)
        .where(among(connection, job_dependencies.c.job_id, ids))
        .order_by(job_dependencies.c.depends_on)
    ):
        depends[job_id].append(other)
    steps: dict[int, list[View]] = defaultdict(list)
    for step in connection.execute(
        select(job_steps)
        .where(among(connection, job_steps.c.job_id, ids))
        .order_by(job_steps.c.job_id, job_steps.c.seq)
    ):
        steps[step.job_id].append(
            {"name": step.name, "state": step.state, "at": step.at, "detail": step.detail}
        )
    attempts: dict[int, list[View]] = defaultdict(list)
    for attempt in connection.execute(
        select(job_attempts)
        .where(among(connection, job_attempts.c.job_id, ids))
        .order_by(job_attempts.c.job_id, job_attempts.c.fence)
    ):
        attempts[attempt.job_id].append(
            {
                "attempt": attempt.attempt,
                "outcome": attempt.outcome,
                "ended_at": attempt.ended_at,
                "error": attempt.error,
            }
        )
    return [
        {
            **{name: row[name] for name in _TOLD},
            "backend": row["backend"],
            "waiting_on": waits.get(row["id"]),
            "depends_on": depends.get(row["id"], []),
            "cancel_requested": row["cancel_requested_at"] is not None,
            "steps": steps.get(row["id"], []),
            "attempts": attempts.get(row["id"], []),
        }
        for row in rows
    ]


def batch_view(connection: Connection, batch_id: int) -> View:
    """One batch with its counts. Raises `UnknownJob`."""
    found = batch_views(connection, [batch_id]).get(batch_id)
    if found is None:
        raise UnknownJob(f"there is no batch {batch_id}", field="batch")
    return found


def batch_views(connection: Connection, ids: Iterable[int]) -> dict[int, View]:
    """The batches with these ids, those that there are, by id."""
    rows = connection.execute(
        select(batches).where(among(connection, batches.c.id, sorted(set(ids))))
    ).mappings()
    return {row["id"]: _batch(row) for row in rows}


def _batch(row: RowMapping) -> View:
    ended = row["succeeded"] + row["failed"] + row["canceled"]
    if ended < row["total"]:
        state = JobState.RUNNING
    else:
        state = JobState.SUCCEEDED if row["succeeded"] == row["total"] else JobState.FAILED
    return {
        "id": row["id"],
        "state": state,
        "total": row["total"],
        "succeeded": row["succeeded"],
        "failed": row["failed"],
        "canceled": row["canceled"],
        "unfinished": row["total"] - ended,
        "submitted_by": row["submitted_by"],
        "reason": row["reason"],
        "created_at": row["created_at"],
        "finished_at": row["finished_at"],
    }
