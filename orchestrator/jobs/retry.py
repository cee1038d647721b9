"""Retry by hand: a failed job once more, as a new one at the end of its lane."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from orchestrator.actions.registry import intent_of
from orchestrator.actions.requests import JobRequest, parse_request
from orchestrator.domain.errors import DependencyFailed, WrongState
from orchestrator.domain.states import FINISHED, JobState
from orchestrator.jobs.views import not_there
from orchestrator.resources.registry import RESOURCES
from orchestrator.store.tables import (
    backends,
    idempotency_keys,
    job_approvals,
    job_dependencies,
    jobs,
)
from orchestrator.store.targets import JOB
from orchestrator.store.transaction import Transaction


def retry_request(transaction: Transaction, job_id: int) -> tuple[JobRequest, dict[str, Any]]:
    """The request that repeats a job, and what the new job is bound to.

    It asks for everything that the old one did, but for its ``ref``, which means nothing outside of
    its batch. It means the very volume the old one meant, not another that has its name by now, and
    needs the jobs that the old one needed, or what they were retried as. Raises `UnknownJob`,
    `WrongState` if the job has not failed or been canceled, and `DependencyFailed` if one that
    it needs has, and was not retried.
    """
    row = (
        transaction.execute(
            select(*JOB, backends.c.name.label("backend"))
            .join(backends, backends.c.id == jobs.c.backend_id)
            .where(jobs.c.id == job_id)
        )
        .mappings()
        .first()
    )
    if row is None:
        raise not_there(transaction, "job", job_id)
    if row["state"] not in (JobState.FAILED, JobState.CANCELED):
        raise WrongState(
            f"job {job_id} is {row['state']}: only failed and canceled jobs can be retried",
            state=row["state"],
        )
    intent = intent_of(dict(row), row["backend"])
    action = intent.action
    written = {
        "action": row["action"],
        "backend": row["backend"],
        "volume": row["volume"],
        "snapshot": row["snapshot"],
        **{one.kind: intent.name_of(one.kind) for one in action.others},
        "host": row["host"],
        "params": row["params"],
        "priority": row["priority"],
        # One that has passed by now means at once.
        "run_at": row["run_at"],
        "max_attempts": row["max_attempts"],
        "reason": row["reason"],
        "after": row["after"],
        "depends_on": _needed(transaction, job_id),
        "approval": _needed_approval(transaction, job_id),
    }
    bound: dict[str, Any] = {"retry_of": job_id}
    if action.creates:
        bound |= {name: getattr(intent, name) for name in RESOURCES[action.kind].bound}
    else:
        bound |= {one.id_name: intent.id_of(one.kind) for one in RESOURCES.values()}
    return parse_request(written), bound


def retried_before(transaction: Transaction, job_id: int, owner: str, key: str) -> int | None:
    """The job that a job was retried as by a request of ``owner`` with this idempotency key."""
    query = (
        select(jobs.c.id)
        .join(idempotency_keys, idempotency_keys.c.job_id == jobs.c.id)
        .where(
            idempotency_keys.c.owner == owner,
            idempotency_keys.c.key == key,
            jobs.c.retry_of == job_id,
        )
    )
    return transaction.execute(query).scalar()


def _needed(transaction: Transaction, job_id: int) -> list[int]:
    """The jobs that a job was asked to wait for, as far as they have rows: each as it is by now."""
    asked = select(job_dependencies.c.depends_on).where(
        job_dependencies.c.job_id == job_id, job_dependencies.c.kind == "asked"
    )
    rows = transaction.execute(_states.where(jobs.c.id.in_(asked)).order_by(jobs.c.id)).all()
    return sorted({_as_it_is_by_now(transaction, job_id, row) for row in rows})


_states = select(jobs.c.id, jobs.c.state, jobs.c.backend_id, jobs.c.volume)


def _as_it_is_by_now(transaction: Transaction, job_id: int, needed: Any) -> int:
    """A needed job, or the retry of it, or of that, which has succeeded or may yet."""
    tries, level = [needed], [needed.id]
    while level:
        # A retry is about the same volume: that is what they are found by.
        again = _states.where(
            jobs.c.backend_id == needed.backend_id,
            jobs.c.volume.is_(None) if needed.volume is None else jobs.c.volume == needed.volume,
            jobs.c.retry_of.in_(level),
        )
        found = transaction.execute(again.order_by(jobs.c.id)).all()
        level = [row.id for row in found]
        tries += found
    good = [row for row in tries if row.state == JobState.SUCCEEDED]
    open_ = [row for row in tries if row.state not in FINISHED]
    if good or open_:
        return int((good or open_)[-1].id)
    last = tries[-1]
    raise DependencyFailed(
        f"job {job_id} needs job {last.id}, which has {_ENDED[last.state]}: retry job {last.id} "
        f"first, then job {job_id}",
        job=last.id,
    )


_ENDED = {JobState.FAILED: "failed", JobState.CANCELED: "been canceled"}


def _needed_approval(transaction: Transaction, job_id: int) -> bool | None:
    query = select(job_approvals.c.job_id).where(job_approvals.c.job_id == job_id)
    return True if transaction.execute(query).first() is not None else None
