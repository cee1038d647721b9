"""Submission: everything is checked, then jobs and events are one commit."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, select

from orchestrator import failpoints
from orchestrator.audit.events import Event, job_event, record
from orchestrator.domain.drivers import DRIVERS
from orchestrator.domain.errors import IdempotencyMismatch
from orchestrator.domain.states import JobState
from orchestrator.jobs.drafts import Drafts, queue_of
from orchestrator.jobs.lanes import lock_for_submission
from orchestrator.jobs.outlook import Intent
from orchestrator.jobs.submission import GROUP_BUDGET, Accepted, PlannedJob, Submission
from orchestrator.store.bulk import draw, insert_rows
from orchestrator.store.tables import batches, idempotency_keys, job_dependencies, job_lanes, jobs


def submit(connection: Connection, submission: Submission, *, max_attempts: int) -> Accepted:
    """Store the submission's jobs. Raises the `Problem` of the first one that is refused.

    Call in a writing transaction; send ``Accepted.wake`` after it has committed.
    """
    if submission.idempotency_key is not None:
        answered = _answered_before(connection, submission)
        if answered is not None:
            return answered
    drafts = Drafts(connection, submission)
    drafts.check()
    accepted = _store(drafts, max_attempts)
    failpoints.reach("submit.before_commit", connection)
    return accepted


def plan(connection: Connection, submission: Submission) -> list[PlannedJob]:
    """What the submission would do; the same checks, and nothing stored."""
    drafts = Drafts(connection, submission)
    drafts.check()
    return [
        PlannedJob(
            request=request,
            would=request.declaration.summary,
            waits_for=drafts.waits_for(place),
        )
        for place, request in enumerate(submission.requests)
    ]


def _store(drafts: Drafts, max_attempts: int) -> Accepted:
    """Insert everything the submission needs; the caller commits."""
    connection, submission = drafts.connection, drafts.submission
    batch_id = _store_batch(drafts) if submission.batch else None
    ids = draw(connection, "jobs", len(drafts.requests))
    rows = [_row(drafts, place, job_id, batch_id, max_attempts) for place, job_id in enumerate(ids)]
    insert_rows(connection, jobs, rows)
    insert_rows(
        connection,
        job_lanes,
        [
            {"lane": lane, "job_id": ids[place], "begun": False}
            for place, lanes in enumerate(drafts.lanes)
            for lane in lanes
        ],
    )
    depends_on = _store_dependencies(drafts, ids)
    if submission.idempotency_key is not None:
        insert_rows(
            connection,
            idempotency_keys,
            [
                {
                    "owner": submission.actor.name,
                    "key": submission.idempotency_key,
                    "request_digest": submission.digest(),
                    "job_id": None if submission.batch else ids[0],
                    "batch_id": batch_id,
                    "created_at": drafts.now,
                }
            ],
        )
    record(
        connection,
        [_event(row, intent.backend) for row, intent in zip(rows, drafts.intents, strict=True)],
        drafts.now,
    )
    wake: dict[str, int] = defaultdict(int)
    for row in rows:
        if row["state"] == JobState.QUEUED:
            wake[row["queue"]] += 1
    return Accepted(
        job_ids=ids,
        batch_id=batch_id,
        rows=rows,
        depends_on=depends_on,
        backends={backend.id: backend.name for backend in drafts.outlook.backends.values()},
        wake=dict(wake),
    )


def _store_batch(drafts: Drafts) -> int:
    [batch_id] = draw(drafts.connection, "batches", 1)
    insert_rows(
        drafts.connection,
        batches,
        [
            {
                "id": batch_id,
                "submitted_by": drafts.submission.actor.name,
                "reason": drafts.submission.reason,
                "total": len(drafts.requests),
                "created_at": drafts.now,
            }
        ],
    )
    return batch_id


def _row(
    drafts: Drafts, place: int, job_id: int, batch_id: int | None, max_attempts: int
) -> dict[str, Any]:
    request, intent = drafts.requests[place], drafts.intents[place]
    driver = drafts.outlook.backend(intent.backend).driver
    later = request.run_at is not None and request.run_at > drafts.now
    state = JobState.WAITING if drafts.blocked[place] else JobState.QUEUED
    bound = drafts.submission.bound.get(place, {})
    return {
        "id": job_id,
        "action": intent.action.name,
        "backend_id": drafts.outlook.backend(intent.backend).id,
        "volume": intent.volume,
        "snapshot": intent.snapshot,
        "host": intent.host,
        "params": dict(intent.params),
        "volume_id": intent.volume_id,
        "snapshot_id": intent.snapshot_id,
        "source_id": intent.source_id,
        "state": state,
        "priority": request.priority,
        "queue": queue_of(intent, driver),
        "cost": _cost(intent, driver),
        "after": request.after,
        "promised_bytes": drafts.rooms[place],
        "begun": False,
        "attempt": 0,
        "max_attempts": request.max_attempts or max_attempts,
        "run_at": request.run_at,
        "not_before": request.run_at if later else None,
        "submitted_by": drafts.submission.actor.name,
        "reason": intent.reason,
        "batch_id": batch_id,
        "ref": request.ref,
        "retry_of": bound.get("retry_of"),
        "created_at": drafts.now,
        "queued_at": drafts.now if state is JobState.QUEUED else None,
    }


def _store_dependencies(drafts: Drafts, ids: list[int]) -> dict[int, list[int]]:
    rows: list[dict[str, Any]] = []
    asked: dict[int, list[int]] = {}
    for place, job_id in enumerate(ids):
        needed = drafts.stored_deps[place] | {ids[other] for other in drafts.batch_deps[place]}
        order = drafts.order_stored[place] | {ids[other] for other in drafts.order_batch[place]}
        if needed:
            asked[job_id] = sorted(needed)
        rows += [
            {"job_id": job_id, "depends_on": other, "kind": kind}
            for kind, others in (("asked", needed), ("order", order - needed))
            for other in sorted(others)
        ]
    insert_rows(drafts.connection, job_dependencies, rows)
    return asked


def _event(row: dict[str, Any], backend: str) -> Event:
    data = {"action": row["action"], "params": row["params"]}
    who, why = row["submitted_by"], row["reason"]
    return job_event(row, "job.submitted", who, data, backend=backend, reason=why)


def _cost(intent: Intent, driver: str) -> int:
    if intent.action.slow or intent.params.get("wipe"):
        return GROUP_BUDGET
    return max(1, GROUP_BUDGET // DRIVERS[driver].group)


def _answered_before(connection: Connection, submission: Submission) -> Accepted | None:
    """The first answer given for the submission's key, if there was one."""
    owner, key = submission.actor.name, submission.idempotency_key
    lock_for_submission(connection, [f"key {owner} {key}"])
    found = (
        connection.execute(
            select(idempotency_keys).where(
                idempotency_keys.c.owner == owner, idempotency_keys.c.key == key
            )
        )
        .mappings()
        .first()
    )
    if found is None:
        return None
    if found["request_digest"] != submission.digest():
        raise IdempotencyMismatch(field="Idempotency-Key", job=found["job_id"])
    batch_id = found["batch_id"]
    ids = [found["job_id"]]
    if batch_id is not None:
        query = select(jobs.c.id).where(jobs.c.batch_id == batch_id).order_by(jobs.c.id)
        ids = list(connection.execute(query).scalars())
    return Accepted(
        job_ids=ids,
        batch_id=batch_id,
        rows=[],
        depends_on={},
        backends={},
        wake={},
        repeated=True,
    )
