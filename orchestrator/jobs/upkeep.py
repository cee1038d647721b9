"""Upkeep of jobs: start times, back-off, expired leases, lost wake-ups, retention.

Each function is one transaction's work, does a bounded amount of it, and does no harm when
several schedulers run it at once: rows another one holds are skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, exists, func, select, update

from orchestrator.actions.registry import ACTIONS
from orchestrator.domain.actors import ENGINE
from orchestrator.domain.errors import HostUnavailable, OutcomeUnknown, Problem
from orchestrator.domain.states import Ending, EventKind, JobState, StepState
from orchestrator.history.events import Event, record
from orchestrator.inventory.hosts import ALIVE_SECONDS, forget_dead
from orchestrator.jobs.claim import last_step, last_step_detail
from orchestrator.jobs.finish import Finished, cancel_dependents, close
from orchestrator.jobs.giving_up import end_failed, engine_event
from orchestrator.jobs.lanes import promote
from orchestrator.jobs.queued import Wake, released
from orchestrator.jobs.rates import forget_turns
from orchestrator.store.bulk import among, insert_rows, update_rows
from orchestrator.store.columns import db_now
from orchestrator.store.conditions import due, in_state, runnable
from orchestrator.store.tables import (
    backends,
    idempotency_keys,
    job_attempts,
    job_dependencies,
    job_steps,
    jobs,
    locks,
    volumes,
    workers,
)
from orchestrator.store.targets import JOB
from orchestrator.store.transaction import Transaction

#: Jobs dealt with in one transaction.
_AT_ONCE = 500
#: How often a job is taken up that has used up its attempts, to find out how it ends.
_LOOKS = 3


def queue_due(transaction: Transaction) -> Wake:
    """Queue jobs whose start time or back-off has come; returns what was queued."""
    found = transaction.execute(
        select(jobs.c.id)
        .where(
            in_state(JobState.WAITING),
            jobs.c.not_before.is_not(None),
            due(jobs.c.not_before),
        )
        .order_by(jobs.c.not_before)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
    ).scalars()
    ids = list(found)
    wake = promote(transaction, ids)
    # What could not be queued waits for a lane or a dependency from now on, not for a time.
    if ids:
        transaction.execute(
            update(jobs)
            .where(
                among(jobs.c.id, ids),
                jobs.c.state == JobState.WAITING,
                due(jobs.c.not_before),
            )
            .values(not_before=None)
        )
        transaction.reach("due.before_commit")
    return wake


def queue_overlooked(transaction: Transaction) -> Wake:
    """A safety net: queue jobs that nothing stands in the way of, though no ending has."""
    free = (
        select(jobs.c.id)
        .where(jobs.c.state == JobState.WAITING, jobs.c.finished_at.is_(None), runnable())
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    return promote(transaction, list(transaction.execute(free).scalars()))


def cancel_overlooked(transaction: Transaction) -> Finished:
    """A safety net: cancel jobs whose dependency has ended badly, though its ending has not."""
    need, needed = job_dependencies.alias("need"), jobs.alias("needed")
    # The order is one that only the index by job has: see `orchestrator.jobs.lanes`.
    state = select(needed.c.state).where(needed.c.id == need.c.depends_on).scalar_subquery()
    because = (
        select(need.c.depends_on)
        .where(
            need.c.job_id >= jobs.c.id,
            need.c.job_id <= jobs.c.id,
            state.in_((JobState.FAILED, JobState.CANCELED)),
        )
        .order_by(need.c.job_id, need.c.depends_on)
        .limit(1)
        .scalar_subquery()
    )
    waiting = (
        select(jobs.c.id, because.label("because"))
        .where(jobs.c.state == JobState.WAITING, jobs.c.finished_at.is_(None))
        .subquery()
    )
    rows = transaction.execute(
        select(waiting).where(waiting.c.because.is_not(None)).limit(_AT_ONCE)
    ).all()
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    canceled = cancel_dependents(transaction, {row[0]: row[1] for row in rows}, now)
    return close(transaction, canceled, now)


#: Those whose worker fell silent, in the order of the index of leases.
_SILENT = (
    select(jobs.c.id)
    .where(in_state(JobState.RUNNING), jobs.c.lease_expires_at < db_now())
    .order_by(jobs.c.lease_expires_at)
    .limit(_AT_ONCE)
)


def _locked(transaction: Transaction, found: Select[int], only: int | None) -> Sequence[Any]:
    """The rows of the jobs found, in the order of their ids, locked: those that another
    transaction holds are passed over. ``only``: just this job, if it is among them."""
    if only is not None:
        found = found.where(jobs.c.id == only)
    ids = transaction.execute(found.with_for_update(skip_locked=True)).scalars().all()
    if not ids:
        return []
    query = (
        select(*JOB, backends.c.name.label("backend"))
        .join(backends, backends.c.id == jobs.c.backend_id)
        .where(among(jobs.c.id, ids))
        .order_by(jobs.c.id)
    )
    return transaction.execute(query).mappings().all()


@dataclass(frozen=True)
class Reclaimed:
    """What became of jobs whose worker fell silent."""

    wake: Wake
    finished: Finished


def expired(transaction: Transaction) -> list[int]:
    """Jobs whose worker fell silent, those first that did so first."""
    return list(transaction.execute(_SILENT).scalars())


def reclaim_expired(
    transaction: Transaction, only: int | None = None, *, looked_at: bool = True
) -> Reclaimed:
    """Queue the jobs of workers that fell silent, for another to look and finish.

    A job that has used up its attempts is only ended by whoever takes it up next: that one
    takes away what was being made, or tells what was changed. If that, too, is what workers
    die of, the job ends as failed with its outcome unknown, and what it was making or changing is
    marked as being in error and looked at again.

    ``only``: just this job. ``looked_at``: false if the database does not let that be marked.
    """
    rows = _locked(transaction, _SILENT, only)
    if not rows:
        return Reclaimed({}, Finished([], [], {}, []))
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    insert_rows(
        transaction,
        job_attempts,
        [
            {
                "job_id": row["id"],
                "fence": row["fence"],
                "attempt": row["attempt"],
                "worker": row["worker"],
                "ended_at": now,
                "outcome": Ending.LOST,
                "error": None,
            }
            for row in rows
        ],
    )
    last = [row for row in rows if row["attempt"] >= row["max_attempts"]]
    looks = _lost_at_the_end(transaction, last)
    given_up = [row for row in last if looks[row["id"]] > _LOOKS]
    given_up_ids = {row["id"] for row in given_up}
    again = [row for row in rows if row["id"] not in given_up_ids]
    _decide(transaction, [row for row in last if row["id"] not in given_up_ids], now)
    update_rows(
        transaction,
        jobs,
        ["id"],
        [
            {
                "id": row["id"],
                "state": JobState.QUEUED,
                "worker": None,
                "lease_expires_at": None,
                "queued_at": now,
            }
            for row in again
        ],
    )
    record(
        transaction,
        [engine_event(row, EventKind.JOB_LEASE_LOST, {"worker": row["worker"]}) for row in again],
        now,
    )
    ended = [(row, _silence(row)) for row in given_up]
    finished = end_failed(transaction, ended, now, looked_at=looked_at)
    transaction.reach("reclaim.before_commit")
    return Reclaimed(released((row["queue"], row["id"]) for row in again), finished)


def _silence(row: Any) -> Problem:
    return OutcomeUnknown(
        f"workers fell silent again and again while doing this, {row['max_attempts']} attempts "
        "long: look at what is there before doing it again"
    )


def _lost_at_the_end(transaction: Transaction, rows: list[Any]) -> Counter[int]:
    """How many workers fell silent in a job's last attempt, or looking at what it left."""
    lost = (
        select(jobs.c.id, func.count())
        .join(job_attempts, job_attempts.c.job_id == jobs.c.id)
        .where(
            among(jobs.c.id, [row["id"] for row in rows]),
            job_attempts.c.outcome == Ending.LOST,
            job_attempts.c.attempt >= jobs.c.max_attempts,
        )
        .group_by(jobs.c.id)
    )
    return Counter(dict(transaction.execute(lost).all())) if rows else Counter()


def _decide(transaction: Transaction, rows: list[Any], now: datetime) -> None:
    """Write into the journals of these jobs that they end as failed, unless it is there."""
    journals: dict[int, list[Any]] = {row["id"]: [] for row in rows}
    if not rows:
        return
    written = select(job_steps.c.job_id, job_steps.c.seq, job_steps.c.name)
    for step in transaction.execute(written.where(among(job_steps.c.job_id, journals))):
        journals[step.job_id].append(step)
    decided: list[dict[str, Any]] = []
    for row in rows:
        name = last_step(ACTIONS[row["action"]])
        if any(step.name == name for step in journals[row["id"]]):
            continue
        decided.append(
            {
                "job_id": row["id"],
                "seq": len(journals[row["id"]]) + 1,
                "fence": row["fence"],
                "name": name,
                "state": StepState.INTENDED,
                "detail": last_step_detail(Ending.FAILED, _silence(row)),
                "at": now,
            }
        )
    insert_rows(transaction, job_steps, decided)


def _without_host(grace: float) -> Select[int]:
    """Jobs that wait for a host without a live worker for longer than ``grace``."""
    alive = exists().where(
        workers.c.host == jobs.c.host,
        workers.c.seen_at > db_now(-max(grace, ALIVE_SECONDS)),
    )
    return (
        select(jobs.c.id)
        .where(
            in_state(JobState.QUEUED),
            jobs.c.queue.like("host.%"),
            jobs.c.queued_at < db_now(-grace),
            ~alive,
        )
        .order_by(jobs.c.queue)
        .limit(_AT_ONCE)
    )


def without_host(transaction: Transaction, grace: float) -> list[int]:
    """The jobs that `fail_for_dead_hosts` ends."""
    return list(transaction.execute(_without_host(grace)).scalars())


def fail_for_dead_hosts(
    transaction: Transaction, grace: float, only: int | None = None, *, looked_at: bool = True
) -> Finished:
    """End jobs that wait for a host without a live worker for longer than ``grace``.

    ``only`` and ``looked_at``: as for `reclaim_expired`.
    """
    rows = _locked(transaction, _without_host(grace), only)
    if not rows:
        return Finished([], [], {}, [])
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    return end_failed(
        transaction,
        [(row, HostUnavailable(f"no worker is alive on host {row['host']}")) for row in rows],
        now,
        looked_at=looked_at,
    )


def overdue_queues(transaction: Transaction, older_than: float) -> Counter[str]:
    """Queues with jobs that no worker has taken for ``older_than`` seconds, and how many.

    The queued rows are the outbox of wake-ups: these have been lost, or nobody listens.
    """
    rows = transaction.execute(
        select(jobs.c.queue, func.count())
        .where(in_state(JobState.QUEUED), jobs.c.queued_at < db_now(-older_than))
        .group_by(jobs.c.queue)
    )
    return Counter(dict(rows.all()))


def expire_locks(transaction: Transaction) -> int:
    """Release locks whose time is over; returns how many."""
    gone = transaction.execute(
        delete(locks)
        .where(locks.c.expires_at < db_now())
        .returning(locks.c.volume_id, locks.c.owner, locks.c.expires_at)
    ).all()
    if gone:
        now: datetime = transaction.execute(select(db_now())).scalar_one()
        names = {
            row.id: row
            for row in transaction.execute(
                select(volumes.c.id, volumes.c.name, backends.c.name.label("backend"))
                .join(backends, backends.c.id == volumes.c.backend_id)
                .where(among(volumes.c.id, [row.volume_id for row in gone]))
            )
        }
        record(
            transaction,
            [
                Event(
                    kind=EventKind.LOCK_EXPIRED,
                    actor=ENGINE,
                    backend=names[row.volume_id].backend,
                    volume=names[row.volume_id].name,
                    volume_id=row.volume_id,
                    data={
                        "before": {
                            "owner": row.owner,
                            "expires_at": row.expires_at.isoformat(),
                        },
                        "after": None,
                    },
                )
                for row in gone
            ],
            now,
        )
    return len(gone)


def retain(transaction: Transaction, *, idempotency_days: float) -> dict[str, int]:
    """Delete what retention says is old; returns how much of what."""
    day = 86400.0
    return {
        "idempotency_keys": transaction.execute(
            delete(idempotency_keys).where(
                idempotency_keys.c.created_at < db_now(-idempotency_days * day)
            )
        ).rowcount,
        "workers": forget_dead(transaction, older_than=day),
        "turns": forget_turns(transaction),
    }
