"""The product with one of its guards switched off, to see that the matrix notices.

Nothing in the product can be switched off: in a test's own process, public functions are
replaced by ones that do without the guard.
"""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import psycopg
from sqlalchemy import exists, select, update

from orchestrator.domain.errors import Problem
from orchestrator.jobs import claim, finish, submit, upkeep
from orchestrator.jobs.claim import Claim, Step
from orchestrator.jobs.finish import Finished, Outcome
from orchestrator.jobs.submission import Accepted, Submission
from orchestrator.jobs.upkeep import Reclaimed
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.frozen import Watch
from orchestrator.store.postgresql.pipeline import Pipeline
from orchestrator.store.tables import job_dependencies, jobs
from orchestrator.store.transaction import Transaction
from workers.backends.base.call import Call
from workers.backends.base.references import PolicyRef
from workers.backends.memory import exports as memory_exports


def switch_off(guard: str) -> None:
    """Switch a guard off in this process."""
    GUARDS[guard]()


def _without_fencing() -> None:
    """Whoever comes with an outcome may write it, however late."""
    write_outcomes, write_step = finish.finish, claim.write_step

    def latest(transaction: Transaction, one: Claim) -> Claim:
        fence = transaction.execute(
            select(jobs.c.fence).where(jobs.c.id == one.job_id)
        ).scalar_one()
        return replace(one, fence=fence)

    def run_again(transaction: Transaction, ids: list[int]) -> None:
        transaction.execute(
            update(jobs)
            .where(jobs.c.id.in_(ids))
            .values(
                state="running",
                worker="late",
                lease_expires_at=db_now(),
                finished_at=None,
                outcome_fence=None,
            )
        )

    def finish_unchecked(
        transaction: Transaction, outcomes: Sequence[tuple[Claim, Outcome]]
    ) -> Finished:
        run_again(transaction, [one.job_id for one, _ in outcomes])
        unchecked = [(latest(transaction, one), outcome) for one, outcome in outcomes]
        return write_outcomes(transaction, unchecked)

    def write_step_unchecked(transaction: Transaction, one: Claim, step: Step) -> bool:
        return write_step(transaction, latest(transaction, one), step) or True

    _replace(finish.finish, finish_unchecked)
    _replace(claim.write_step, write_step_unchecked)


def _without_lanes() -> None:
    """Jobs that wait for others of their volume are taken as if they did not."""
    take, look = claim.claim, claim.next_jobs

    def hasty(transaction: Transaction) -> None:
        needed = jobs.alias("needed")
        depends = exists().where(
            job_dependencies.c.job_id == jobs.c.id,
            needed.c.id == job_dependencies.c.depends_on,
            needed.c.finished_at.is_(None),
        )
        transaction.execute(
            update(jobs)
            .where(jobs.c.state == "waiting", jobs.c.not_before.is_(None), ~depends)
            .values(state="queued", queued_at=db_now())
        )

    def claim_unordered(database: Database, **options: Any) -> list[Claim]:
        database.transact(hasty)
        return take(database, **options)

    def next_unordered(transaction: Transaction, **options: Any) -> list[int]:
        waiting = transaction.execute(select(jobs.c.id).where(jobs.c.state == "waiting"))
        return [*look(transaction, **options), *waiting.scalars()]

    _replace(claim.claim, claim_unordered)
    _replace(claim.next_jobs, next_unordered)


def _without_relay() -> None:
    """The scheduler does not look for wake-ups that were lost."""

    def nothing_overdue(_transaction: Transaction, _older_than: float) -> Counter[str]:
        return Counter()

    _replace(upkeep.overdue_queues, nothing_overdue)


def _without_sweep() -> None:
    """Nobody looks for work that no message tells of: neither scheduler nor workers."""
    from tests.chaos.roles import Inside

    _without_relay()
    Inside.look_for_work = Inside.heed_messages  # type: ignore[method-assign]


def _without_idempotency() -> None:
    """A key means nothing."""
    store = submit.submit_together

    def submit_keyless(
        transaction: Transaction, submissions: Sequence[Submission], **options: Any
    ) -> list[Accepted | Problem]:
        keyless = [replace(submission, idempotency_key=None) for submission in submissions]
        return store(transaction, keyless, **options)

    _replace(submit.submit_together, submit_keyless)


def _without_leases() -> None:
    """A lease that has run out is nobody's business."""

    def reclaim_nothing(_transaction: Transaction) -> Reclaimed:
        return Reclaimed({}, Finished([], [], {}, []))

    _replace(upkeep.reclaim_expired, reclaim_nothing)


def _without_policy_fences() -> None:
    """The storage lets a late worker change an export policy."""

    def unfenced(db: sqlite3.Connection, policy: PolicyRef, _call: Call) -> sqlite3.Row:
        return memory_exports._row(db, policy)

    _replace(memory_exports._fenced, unfenced)


def _without_watch() -> None:
    """Nobody looks for sessions whose process stands still."""

    def look_at_nothing(_watch: Watch) -> None:
        return

    Watch._run = look_at_nothing  # type: ignore[method-assign, assignment]


def _without_sync() -> None:
    """Pipelines end as psycopg ends them, with a Flush behind the Sync."""
    Pipeline._exit_gen = psycopg.Pipeline._exit_gen  # type: ignore[method-assign]


def _replace(function: Callable[..., Any], replacement: Callable[..., Any]) -> None:
    """Put one function in the place of another, wherever it was imported to."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ("orchestrator", "workers"):
            continue
        for attribute, value in list(vars(module).items()):
            if value is function:
                setattr(module, attribute, replacement)


#: What can be switched off.
GUARDS: dict[str, Callable[[], None]] = {
    "fencing": _without_fencing,
    "lanes": _without_lanes,
    "relay": _without_relay,
    "sweep": _without_sweep,
    "idempotency": _without_idempotency,
    "leases": _without_leases,
    "policy fences": _without_policy_fences,
    "watch": _without_watch,
    "sync": _without_sync,
}
