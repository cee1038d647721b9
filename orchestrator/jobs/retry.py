"""Retry by hand: a failed job once more, as a new one at the end of its lane."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from orchestrator.domain.actions import ACTIONS
from orchestrator.domain.errors import WrongState
from orchestrator.domain.requests import JobRequest, parse_request
from orchestrator.domain.states import JobState
from orchestrator.jobs.views import not_there
from orchestrator.store.tables import backends, job_approvals, jobs


def retry_request(connection: Connection, job_id: int) -> tuple[JobRequest, dict[str, Any]]:
    """The request that repeats a job, and what the new job is bound to.

    It means the very volume the old one meant, not another that has its name by now.
    Raises `UnknownJob`, and `WrongState` if the job has not failed or been canceled.
    """
    row = (
        connection.execute(
            select(jobs, backends.c.name.label("backend"))
            .join(backends, backends.c.id == jobs.c.backend_id)
            .where(jobs.c.id == job_id)
        )
        .mappings()
        .first()
    )
    if row is None:
        raise not_there(connection, "job", job_id)
    if row["state"] not in (JobState.FAILED, JobState.CANCELED):
        raise WrongState(
            f"job {job_id} is {row['state']}: only failed and canceled jobs can be retried",
            state=row["state"],
        )
    action = ACTIONS[row["action"]]
    written = {
        "action": row["action"],
        "backend": row["backend"],
        "volume": row["volume"],
        "snapshot": row["snapshot"],
        "policy": row["policy"],
        "host": row["host"],
        "params": row["params"],
        "priority": row["priority"],
        "max_attempts": row["max_attempts"],
        "reason": row["reason"],
        "after": row["after"],
        "approval": _needed_approval(connection, job_id),
    }
    bound: dict[str, Any] = {"retry_of": job_id}
    if not action.creates:
        bound |= {name: row[name] for name in ("volume_id", "snapshot_id", "policy_id")}
    elif action.kind == "snapshot":
        bound["volume_id"] = row["volume_id"]
    else:
        bound |= {"source_id": row["source_id"], "snapshot_id": row["snapshot_id"]}
    return parse_request(written), bound


def _needed_approval(connection: Connection, job_id: int) -> bool | None:
    query = select(job_approvals.c.job_id).where(job_approvals.c.job_id == job_id)
    return True if connection.execute(query).first() is not None else None
