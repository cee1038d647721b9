"""Jobs that the engine gives up: they end as failed, and what they have left is looked at again.

A job is given up when its workers died of it again and again, when its host is dead, or when
somebody insists on its end while its backend is out of reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select

from orchestrator.actions.registry import ACTIONS, intent_of
from orchestrator.domain.actors import ENGINE
from orchestrator.domain.errors import Canceled, Problem
from orchestrator.domain.states import EventKind, JobState
from orchestrator.history.events import Event, job_event, record
from orchestrator.jobs.claim import CHANGES
from orchestrator.jobs.finish import Finished, close, ended_as
from orchestrator.jobs.rechecking import unseen
from orchestrator.resources.changes import Change, apply
from orchestrator.store.bulk import among, draw, update_rows
from orchestrator.store.tables import backends, job_steps, jobs
from orchestrator.store.transaction import Transaction

#: A second cancel this many seconds after the first is a decision, and no request sent twice.
INSIST_SECONDS = 10.0


def end_failed(
    transaction: Transaction,
    failed: Sequence[tuple[Any, Problem]],
    now: datetime,
    *,
    looked_at: bool = True,
) -> Finished:
    """End jobs in the engine's own name, under a fencing number of its own.

    Each row has the columns of `jobs` and the name of its ``backend``, and is locked. What they
    may have left is in error and looked at again, unless ``looked_at`` is false.
    """
    if not failed:
        return Finished([], [], {}, [])
    fences = draw(transaction, "fences", len(failed))
    update_rows(
        transaction,
        jobs,
        ["id"],
        [
            {
                "id": row["id"],
                "state": JobState.FAILED,
                "fence": fence,
                "outcome_fence": fence,
                "error": problem.job_error(),
                "lease_expires_at": None,
                "not_before": None,
                "finished_at": now,
            }
            for (row, problem), fence in zip(failed, fences, strict=True)
        ],
    )
    room = apply(transaction, _in_error(transaction, failed, now) if looked_at else [], now)
    record(
        transaction,
        [
            engine_event(row, EventKind.JOB_FAILED, {"error": problem.job_error()})
            for row, problem in failed
        ],
        now,
    )
    ended = [ended_as(JobState.FAILED, row) for row, _ in failed]
    return close(transaction, ended, now, room)


def nobody_comes(
    transaction: Transaction, rows: Sequence[Any], now: datetime
) -> list[tuple[Any, Problem]]:
    """Those of these begun jobs, which somebody cancels, that no worker will take up.

    Their backend is configured no more; or it is out of reach, and this is not the first time.
    """
    still = [row for row in rows if row["state"] != JobState.RUNNING]
    if not still:
        return []
    found = transaction.execute(
        select(
            backends.c.id, backends.c.name, backends.c.configured, backends.c.unavailable_since
        ).where(among(backends.c.id, {row["backend_id"] for row in still}))
    )
    known = {row.id: row for row in found}
    given_up: list[tuple[Any, Problem]] = []
    for row in still:
        backend, asked = known[row["backend_id"]], row["cancel_requested_at"]
        insists = asked is not None and now - asked >= timedelta(seconds=INSIST_SECONDS)
        if not backend.configured:
            why = "is configured no more"
        elif backend.unavailable_since is not None and insists:
            why = f"is out of reach since {backend.unavailable_since:%FT%TZ}"
        else:
            continue
        left = "what it has left there could not be seen"
        given_up.append((row, Canceled(f"canceled while backend {backend.name} {why}: {left}")))
    return given_up


def _in_error(
    transaction: Transaction, failed: Sequence[tuple[Any, Problem]], now: datetime
) -> list[Change]:
    """What jobs may have left that nobody knows the outcome of: it is looked at again."""
    begun = {row["id"] for row, _ in failed if row["begun"]}
    journaled: set[int] = set()
    if begun:
        written = select(job_steps.c.job_id).where(CHANGES).distinct()
        ids = among(job_steps.c.job_id, begun)
        journaled.update(transaction.execute(written.where(ids)).scalars())
    changes: list[Change] = []
    for row, problem in failed:
        action = ACTIONS[row["action"]]
        if row["id"] in (begun if action.creates else journaled):
            changes += unseen(intent_of(row, row["backend"]), problem.detail, now)
    return changes


def engine_event(row: Any, kind: EventKind, data: dict[str, Any]) -> Event:
    """What the engine has done to a job."""
    return job_event(row, kind, ENGINE, data, backend=row["backend"])
