"""Submission: everything is checked, then jobs and events are one commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import RowMapping, select

from orchestrator.domain.errors import Problem
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.outlook import Intent
from orchestrator.domain.places import Places
from orchestrator.domain.queues import GROUP_BUDGET, backend_queue
from orchestrator.domain.states import EventKind, JobState
from orchestrator.history.events import Event, intent_event, recorded
from orchestrator.inventory import promises
from orchestrator.jobs.drafts import Draft, Drafts, queue_of
from orchestrator.jobs.queued import queued
from orchestrator.jobs.submission import Accepted, PlannedJob, Submission
from orchestrator.jobs.turns import Turns, in_batch
from orchestrator.store.bulk import draw, insert_rows, inserted
from orchestrator.store.tables import (
    batches,
    idempotency_keys,
    job_approvals,
    job_dependencies,
    job_lanes,
    job_targets,
    jobs,
)
from orchestrator.store.transaction import Transaction


def submit(
    transaction: Transaction,
    submission: Submission,
    *,
    max_attempts: int,
    turns: Turns | None = None,
    places: Places | None = None,
) -> Accepted:
    """Store the submission's jobs. Raises the `Problem` of the first one that is refused.

    Call in a writing transaction; send ``Accepted.wake`` after it has committed.
    """
    [fate] = submit_together(
        transaction,
        [submission],
        max_attempts=max_attempts,
        turns=turns or Turns(),
        places=places,
    )
    if isinstance(fate, Problem):
        raise fate
    return fate


def submit_together(
    transaction: Transaction,
    submissions: Sequence[Submission],
    *,
    max_attempts: int,
    turns: Turns,
    places: Places | None = None,
) -> list[Accepted | Problem]:
    """Store one batch, or any number of single jobs; what becomes of each.

    One that is refused does not keep the others from being stored. Call in a writing
    transaction, which does nothing more than commit; send ``Accepted.wake`` after that.
    """
    drafts = Drafts(transaction, submissions, places)
    drafts.check()
    stored = _store(drafts, max_attempts, turns)
    fates: list[Accepted | Problem] = []
    for index in range(len(submissions)):
        first = drafts.same_as.get(index, index)
        if (problem := drafts.refused.get(first)) is not None:
            fates.append(problem)
        elif (row := drafts.answered.get(first)) is not None:
            fates.append(_answered_before(transaction, row))
        else:
            accepted = stored[id(submissions[first])]
            fates.append(accepted if first == index else replace(accepted, repeated=True))
    transaction.reach("submit.before_commit")
    return fates


def plan(
    transaction: Transaction, submission: Submission, places: Places | None = None
) -> list[PlannedJob]:
    """What the submission would do; the same checks, and nothing stored."""
    drafts = Drafts(transaction, [replace(submission, idempotency_key=None)], places)
    drafts.check(draw_ids=False)
    if drafts.refused:
        raise drafts.refused[0]
    return [
        PlannedJob(
            request=draft.request,
            would=draft.request.declaration.summary,
            notes=draft.notes,
            waits_for=drafts.waits_for(draft),
        )
        for draft in drafts.accepted
    ]


def _store(drafts: Drafts, max_attempts: int, turns: Turns) -> dict[int, Accepted]:
    """Insert the accepted drafts; what was stored, by identity of the submission."""
    transaction, accepted = drafts.transaction, drafts.accepted
    if not accepted:
        return {}
    together: dict[int, list[Draft]] = defaultdict(list)
    for draft in accepted:
        together[id(draft.submission)].append(draft)
    batch_ids = {
        key: _store_batch(drafts, some[0].submission)
        for key, some in together.items()
        if some[0].submission.batch
    }
    ids = drafts.ids()
    heads = turns.heads(transaction, {backend_queue(draft.intent.backend) for draft in accepted})
    rows = {
        draft.number: _row(
            drafts, draft, ids[draft.number], batch_ids.get(id(draft.submission)), max_attempts,
            turns, heads,
        )
        for draft in accepted
    }  # fmt: skip
    lanes = [
        {"lane": lane, "job_id": ids[draft.number], "begun": False}
        for draft in accepted
        for lane in draft.lanes
    ]
    targets = [
        {
            "job_id": ids[draft.number],
            "place": place,
            "role": one.role,
            "kind": one.kind,
            "object_id": one.id,
            "name": one.name,
        }
        for draft in accepted
        for place, one in enumerate(draft.intent.others)
    ]
    dependencies = [
        {"job_id": ids[draft.number], "depends_on": other, "kind": kind}
        for draft in accepted
        for kind, others in (
            ("asked", draft.needs | {ids[number] for number in draft.needs_here}),
            ("order", draft.follows | {ids[number] for number in draft.follows_here}),
        )
        for other in sorted(others)
    ]
    keys = [
        {
            "owner": some[0].submission.actor.name,
            "key": some[0].submission.idempotency_key,
            "request_digest": some[0].submission.digest(),
            "job_id": None if key in batch_ids else ids[some[0].number],
            "batch_id": batch_ids.get(key),
            "created_at": drafts.now,
        }
        for key, some in together.items()
        if some[0].submission.idempotency_key is not None
    ]
    approvals = [
        {"job_id": ids[draft.number], "approved_by": None, "approved_at": None}
        for draft in accepted
        if draft.request.needs_approval
    ]
    happened = [_event(rows[draft.number], draft.intent) for draft in accepted]
    room, limits = _room(drafts)
    transaction.defer(
        inserted(jobs, list(rows.values())),
        *(
            inserted(table, some)
            for table, some in (
                (job_targets, targets),
                (job_lanes, lanes),
                (job_dependencies, dependencies),
                (job_approvals, approvals),
                (idempotency_keys, keys),
            )
            if some
        ),
        recorded(happened, drafts.now),
        *promises.added(room, limits),
    )
    return {
        key: Accepted(
            job_ids=[ids[draft.number] for draft in some],
            batch_id=batch_ids.get(key),
            rows=[rows[draft.number] for draft in some],
            depends_on={
                ids[draft.number]: sorted(
                    draft.needs | {ids[number] for number in draft.needs_here}
                )
                for draft in some
                if draft.needs or draft.needs_here
            },
            intents=[draft.intent for draft in some],
            wake=queued(
                (row["queue"], row["id"], row["cost"])
                for row in (rows[draft.number] for draft in some)
                if row["state"] == JobState.QUEUED
            ),
        )
        for key, some in together.items()
    }


def _room(drafts: Drafts) -> tuple[dict[int, int], dict[int, int]]:
    """The room that the accepted jobs will take, and the most that may be promised."""
    room: dict[int, int] = defaultdict(int)
    limits: dict[int, int] = {}
    for draft in drafts.accepted:
        backend = drafts.outlook.backend(draft.intent.backend)
        room[backend.id] += draft.room
        if backend.limit_bytes is not None:
            limits[backend.id] = int(backend.limit_bytes)
    return room, limits


def _store_batch(drafts: Drafts, submission: Submission) -> int:
    [batch_id] = draw(drafts.transaction, "batches", 1)
    insert_rows(
        drafts.transaction,
        batches,
        [
            {
                "id": batch_id,
                "submitted_by": submission.actor.name,
                "reason": submission.reason,
                "total": len(submission.requests),
                "created_at": drafts.now,
            }
        ],
    )
    return batch_id


def _row(
    drafts: Drafts,
    draft: Draft,
    job_id: int,
    batch_id: int | None,
    max_attempts: int,
    turns: Turns,
    heads: Mapping[str, int],
) -> dict[str, Any]:
    request, intent, submitter = draft.request, draft.intent, draft.submission.actor.name
    backend = drafts.outlook.backend(intent.backend)
    state = JobState.WAITING if draft.blocked else JobState.QUEUED
    queue, turn = queue_of(intent, backend.driver), 0
    if queue == backend_queue(backend.name):
        turn = (
            turns.single(queue, submitter, heads[queue], backend.max_jobs)
            if batch_id is None
            else in_batch(draft.place, heads[queue], backend.max_jobs)
        )
    return {
        "id": job_id,
        "action": intent.action.name,
        "backend_id": backend.id,
        "volume": intent.volume,
        "snapshot": intent.snapshot,
        "host": intent.host,
        "params": intent.params,
        "volume_id": intent.volume_id,
        "snapshot_id": intent.snapshot_id,
        "state": state,
        "priority": request.priority,
        "turn": turn,
        "queue": queue,
        "cost": _cost(intent, backend.driver),
        "after": request.after,
        "promised_bytes": draft.room,
        "begun": False,
        "attempt": 0,
        "max_attempts": request.max_attempts or max_attempts,
        "run_at": request.run_at,
        "not_before": draft.begins if draft.later(drafts.now) else None,
        "submitted_by": submitter,
        "account": intent.account,
        "reason": intent.reason,
        "batch_id": batch_id,
        "ref": request.ref,
        "retry_of": draft.bound.get("retry_of"),
        "created_at": drafts.now,
        "queued_at": drafts.now if state is JobState.QUEUED else None,
    }


def _event(row: dict[str, Any], intent: Intent) -> Event:
    data = {"action": row["action"], "params": row["params"]}
    return intent_event(
        intent, EventKind.JOB_SUBMITTED, row["submitted_by"], data, job_id=row["id"]
    )


def _cost(intent: Intent, driver: str) -> int:
    if intent.action.slow or intent.params.get("wipe"):
        return GROUP_BUDGET
    return max(1, GROUP_BUDGET // DRIVERS[driver].group)


def _answered_before(transaction: Transaction, row: RowMapping) -> Accepted:
    """The first answer given for a key, which is in ``row``."""
    batch_id = row["batch_id"]
    ids = [row["job_id"]]
    if batch_id is not None:
        query = select(jobs.c.id).where(jobs.c.batch_id == batch_id).order_by(jobs.c.id)
        ids = list(transaction.execute(query).scalars())
    return Accepted(
        job_ids=ids,
        batch_id=batch_id,
        rows=[],
        depends_on={},
        intents=[],
        wake={},
        repeated=True,
    )
