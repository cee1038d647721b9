"""Finishing: outcomes are written in groups, each checked against its fencing number."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import select

from orchestrator.actions.registry import intent_of
from orchestrator.domain.actors import ENGINE
from orchestrator.domain.errors import Canceled, DependencyFailed, Problem
from orchestrator.domain.states import Ending, EventKind, JobState
from orchestrator.history.events import Event, intent_event, job_event, record, recorded
from orchestrator.inventory import promises
from orchestrator.jobs.claim import Claim
from orchestrator.jobs.lanes import heads, heads_of, promote
from orchestrator.jobs.queued import Wake, released, together
from orchestrator.resources import changes as inventory
from orchestrator.store.asking import Asked
from orchestrator.store.bulk import among, inserted, update_rows, updated
from orchestrator.store.queries.finishing import (
    CloseJournals,
    CountEnded,
    Dependents,
    HeldJob,
    HoldJobs,
    OthersInLanes,
    ReleaseLanes,
)
from orchestrator.store.queries.lanes import Head
from orchestrator.store.tables import (
    backends,
    job_attempts,
    jobs,
)
from orchestrator.store.targets import JOB
from orchestrator.store.transaction import Transaction

#: The state of a job that an attempt has ended so.
_STATES = {
    Ending.SUCCEEDED: JobState.SUCCEEDED,
    Ending.FAILED: JobState.FAILED,
    Ending.CANCELED: JobState.CANCELED,
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended, and what it left in the inventory."""

    ending: Ending
    result: dict[str, Any] | None = None
    problem: Problem | None = None
    changes: Sequence[inventory.Change] = ()
    #: What history keeps of the object: {"before": …, "after": …}.
    audit: dict[str, Any] = field(default_factory=dict)
    #: Seconds before the next attempt.
    delay: float = 0.0
    #: It is decided how the job ends, as soon as one can see what it has left: a cancel does
    #: not hurry that.
    decided: bool = False
    #: What the commands of the attempt have said, if it did not succeed.
    output: Sequence[Mapping[str, Any]] = ()
    #: The job has a journal, whose steps are done once it has succeeded.
    journaled: bool = False


@dataclass(frozen=True)
class Finished:
    """What a group's finishing brought about; told to others after the commit."""

    ended_jobs: list[int]
    ended_batches: list[int]
    wake: Wake
    #: Jobs whose lease had been lost: nothing of them was written.
    lost: list[int]


def back_off(attempt: int, first: float, most: float) -> float:
    """Seconds to wait after the given attempt failed: doubling, with half of it random."""
    whole = min(most, first * 2.0 ** min(attempt - 1, 30))
    return whole / 2 + random.uniform(0, whole / 2)  # noqa: S311 - spreads load, no secret


def finish(transaction: Transaction, outcomes: Sequence[tuple[Claim, Outcome]]) -> Finished:
    """Write the outcomes of a group of claims, with their events, in this transaction.

    An outcome counts only if the job still runs under the claim's fencing number; rows
    are locked in the order of their ids before anything else is touched. From then on
    nobody can begin to wait for them (`hold_unfinished`).
    """
    changes = inventory.merge(change for _, outcome in outcomes for change in outcome.changes)
    ids = [claim.job_id for claim, _ in outcomes]
    lanes = sorted({lane for claim, _ in outcomes for lane in claim.intent.lanes})
    rows, dependents, others, *before = transaction.ask(
        HoldJobs(ids),
        Dependents(ids),
        OthersInLanes(lanes, ids),
        *changes.volumes_before(),
    )
    held = {(row.id, row.fence): row for row in rows if row.state == JobState.RUNNING}
    valid = [
        (c, _without_delay(o) if held[c.job_id, c.fence].cancel_requested_at else o)
        for c, o in outcomes
        if (c.job_id, c.fence) in held
    ]
    lost = [c.job_id for c, _ in outcomes if (c.job_id, c.fence) not in held]
    if not valid:
        return Finished([], [], {}, lost)
    if lost:
        # What the others changed is no longer theirs to say.
        changes = inventory.merge(change for _, outcome in valid for change in outcome.changes)
        before = list(transaction.ask(*changes.volumes_before()))
    now: datetime = rows[0].now
    workers = {c.job_id: held[c.job_id, c.fence].worker for c, _ in valid}
    ended = [_ended(c, o, held[c.job_id, c.fence]) for c, o in valid if _ends(o)]
    events = [event for c, o in valid for event in _events(c, o)]
    changes.write_others(transaction, now)
    written = [
        *changes.rows_set(now),
        *_outcomes(valid, now),
        *_attempts(valid, workers, now),
        *_journals_closed(valid),
        recorded(events, now),
        transaction.point("lanes.before_release", _facts(valid)),
    ]
    room = changes.room(before[0] if before else [])
    alone = not dependents and not others
    closed = close(transaction, ended, now, room, written, alone=alone)
    handed_back = released((c.queue, c.job_id) for c, o in valid if _is_queued(o))
    transaction.reach("finish.before_commit", _facts(valid))
    return Finished(
        ended_jobs=closed.ended_jobs,
        ended_batches=closed.ended_batches,
        wake=together(handed_back, closed.wake),
        lost=lost,
    )


def _facts(outcomes: Sequence[tuple[Claim, Outcome]]) -> Iterator[dict[str, Any]]:
    """What a failpoint is passed with, for each of these."""
    return ({"action": claim.action.name} for claim, _ in outcomes)


def _ended(claim: Claim, outcome: Outcome, row: HeldJob) -> Ended:
    return Ended(
        claim.job_id,
        _STATES[outcome.ending],
        claim.batch_id,
        claim.backend_id,
        row.promised_bytes,
        claim.intent.lanes,
    )


def _ends(outcome: Outcome) -> bool:
    return outcome.ending in _STATES


def _without_delay(outcome: Outcome) -> Outcome:
    """Whoever has canceled the job need not wait out the back-off before an attempt."""
    return outcome if outcome.decided else replace(outcome, delay=0.0)


def _is_queued(outcome: Outcome) -> bool:
    """Whether another worker may take the job up at once."""
    if outcome.ending in (Ending.RETRY, Ending.LIMITED, Ending.OUTAGE):
        return outcome.delay <= 0
    return outcome.ending is Ending.HANDED_BACK


def _outcomes(outcomes: Sequence[tuple[Claim, Outcome]], now: datetime) -> list[Asked[Any]]:
    ended: list[dict[str, Any]] = []
    resumed: list[dict[str, Any]] = []
    for claim, outcome in outcomes:
        key = {"id": claim.job_id, "fence": claim.fence}
        error = outcome.problem.job_error() if outcome.problem else None
        if _ends(outcome):
            ended.append(
                {
                    **key,
                    "state": _STATES[outcome.ending],
                    "outcome_fence": claim.fence,
                    "result": outcome.result,
                    "error": error,
                    "lease_expires_at": None,
                    "finished_at": now,
                }
            )
            continue
        # What looks how an attempt has ended is no other attempt.
        counts = outcome.ending is Ending.RETRY or outcome.decided
        queued = _is_queued(outcome)
        resumed.append(
            {
                **key,
                "state": JobState.QUEUED if queued else JobState.WAITING,
                # What was handed back, or came too early, uses up no attempt.
                "attempt": claim.attempt if counts else claim.attempt - 1,
                "error": error,
                "worker": None,
                "lease_expires_at": None,
                "not_before": None if queued else now + timedelta(seconds=outcome.delay),
                "queued_at": now if queued else None,
            }
        )
    return [updated(jobs, ["id", "fence"], rows) for rows in (ended, resumed) if rows]


def _attempts(
    outcomes: Sequence[tuple[Claim, Outcome]], workers: dict[int, str | None], now: datetime
) -> list[Asked[Any]]:
    rows = [
        {
            "job_id": claim.job_id,
            "fence": claim.fence,
            "attempt": claim.attempt,
            "worker": workers[claim.job_id],
            "ended_at": now,
            "outcome": outcome.ending,
            "error": _error_of_attempt(outcome),
        }
        for claim, outcome in outcomes
        if outcome.ending is not Ending.SUCCEEDED
    ]
    return [inserted(job_attempts, rows)] if rows else []


def _error_of_attempt(outcome: Outcome) -> dict[str, Any] | None:
    """Why it did not succeed; what its commands said is kept with the attempt alone."""
    if outcome.problem is None:
        return None
    error = outcome.problem.job_error()
    return {**error, "output": outcome.output} if outcome.output else error


def _journals_closed(outcomes: Sequence[tuple[Claim, Outcome]]) -> list[Asked[Any]]:
    done = [c.job_id for c, o in outcomes if o.journaled and o.ending is Ending.SUCCEEDED]
    return [CloseJournals(done)] if done else []


_ENDED: dict[Ending, EventKind] = {
    one: EventKind(f"job.{one}") for one in Ending if one is not Ending.LOST
}


def _events(claim: Claim, outcome: Outcome) -> Iterable[Event]:
    intent = claim.intent
    event = partial(intent_event, intent, actor=claim.submitted_by, job_id=claim.job_id)
    if outcome.ending is Ending.SUCCEEDED:
        text = claim.action.audit.format(
            backend=intent.backend,
            volume=intent.volume,
            snapshot=intent.snapshot,
            host=intent.host,
            **{one.kind: intent.name_of(one.kind) or "(none)" for one in claim.action.others},
        )
        yield event(kind=claim.action.name, data={"text": text, **outcome.audit})
    for change in outcome.changes:
        if isinstance(change, inventory.Written) and (told := change.event()) is not None:
            kind, about = told
            yield replace(event(kind=kind, data={}), **about)
    # The end of an attempt is the last event of it.
    data: dict[str, Any] = {"attempt": claim.attempt}
    if outcome.problem is not None:
        data["error"] = outcome.problem.job_error()
    yield event(kind=_ENDED[outcome.ending], data=data)


# -- what the end of a job sets off -------------------------------------------------------


class Ended(NamedTuple):
    """A job that has ended, and what it held."""

    job_id: int
    state: JobState
    batch_id: int | None
    backend_id: int
    promised_bytes: int
    lanes: list[str]


def canceled(row: Any) -> Ended:
    """What a canceled job held; ``row`` has the columns of `jobs`, and its ``backend``."""
    return ended_as(JobState.CANCELED, row)


def ended_as(state: JobState, row: Any) -> Ended:
    """What a job held; ``row`` has the columns of `jobs`, and its ``backend``."""
    return Ended(
        row["id"],
        state,
        row["batch_id"],
        row["backend_id"],
        row["promised_bytes"],
        intent_of(row, row["backend"]).lanes,
    )


def close(
    transaction: Transaction,
    ended: Sequence[Ended],
    now: datetime,
    room: Mapping[int, int] | None = None,
    written: Sequence[Asked[Any]] = (),
    *,
    alone: bool = False,
) -> Finished:
    """Let go what waited for jobs that have ended; the last thing a transaction does.

    Their lanes are freed, the dependents of those that did not succeed are canceled (and
    theirs in turn), batches are counted, and whatever may run now is queued. What they had
    promised is taken back; ``room`` is what their changes to the inventory take up.
    ``written`` tells of their end, and is executed first. ``alone``: nothing waits for them.
    """
    if alone:
        everything = list(ended)
        wake: Wake = {}
        last = [*written, ReleaseLanes([one.job_id for one in ended])]
    else:
        everything, wake = _let_go(transaction, ended, written, now)
        last = []
    left = Counter(room or {})
    for one in everything:
        left[one.backend_id] -= one.promised_bytes
    if counts := _counted(everything, now):
        counted = transaction.ask(*last, *counts)
    else:
        transaction.defer(*last)
        counted = []
    transaction.defer(*promises.added(left))
    return Finished(
        ended_jobs=sorted(one.job_id for one in everything),
        ended_batches=[row.id for rows in counted for row in rows if row.finished_at],
        wake=wake,
        lost=[],
    )


def _let_go(
    transaction: Transaction, ended: Sequence[Ended], written: Sequence[Asked[Any]], now: datetime
) -> tuple[list[Ended], Wake]:
    """Free the lanes of these jobs and what depends on them; all that has ended with them, and
    what was queued."""
    everything: list[Ended] = []
    candidates: set[int] = set()
    level = list(ended)
    first: Sequence[Head] = []
    if not ended:
        transaction.ask(*written)
    while level:
        everything += level
        ids = [one.job_id for one in level]
        freed = sorted({lane for one in everything for lane in one.lanes})
        *_, dependents, first = transaction.ask(
            *written, ReleaseLanes(ids), Dependents(ids), heads_of(freed)
        )
        written = ()
        candidates.update(row.job_id for row in dependents)
        bad = {one.job_id for one in level if one.state is not JobState.SUCCEEDED}
        because = {row.job_id: row.depends_on for row in dependents if row.depends_on in bad}
        level = cancel_dependents(transaction, because, now)
    freed = sorted({lane for one in everything for lane in one.lanes})
    wake: Wake = {}
    looked_at = {one.job_id for one in everything}
    candidates.update(row.head for row in first if row.head is not None)
    while candidates - looked_at:
        wake = together(wake, promote(transaction, candidates - looked_at))
        looked_at |= candidates
        # A candidate may have been canceled meanwhile by another, which has found nothing to
        # queue because this job had not ended yet: then the next of the lane is ours to queue.
        candidates = set(heads(transaction, freed))
    return everything, wake


def cancel_dependents(
    transaction: Transaction, because: dict[int, int], now: datetime
) -> list[Ended]:
    """Cancel jobs, each because of the job it needed; what was canceled, to be closed."""
    if not because:
        return []
    rows = (
        transaction.execute(
            select(*JOB, backends.c.name.label("backend"))
            .join(backends, backends.c.id == jobs.c.backend_id)
            .where(among(jobs.c.id, sorted(because)), jobs.c.finished_at.is_(None))
            .order_by(jobs.c.id)
            .with_for_update(of=jobs)
        )
        .mappings()
        .all()
    )
    changed: list[dict[str, Any]] = []
    events: list[Event] = []
    for row in rows:
        needed = because[row["id"]]
        problem = DependencyFailed(
            f"job {needed}, which this one needs, did not succeed", job=needed
        )
        changed.append(_cancellation(row["id"], problem, now))
        events.append(cancel_event(row, ENGINE, problem))
    update_rows(transaction, jobs, ["id"], changed)
    record(transaction, events, now)
    return [canceled(row) for row in rows]


def _cancellation(job_id: int, problem: Problem, now: datetime) -> dict[str, Any]:
    return {
        "id": job_id,
        "state": JobState.CANCELED,
        "error": problem.job_error(),
        "finished_at": now,
        "not_before": None,
    }


def cancel_event(row: Any, actor: str, problem: Problem) -> Event:
    """The event of a job that was canceled by the engine; ``row`` has its backend."""
    data = {"error": problem.job_error()}
    return job_event(
        row, EventKind.JOB_CANCELED, actor, data, backend=row["backend"], reason=row["reason"]
    )


def cancel_unbegun(
    transaction: Transaction,
    rows: Sequence[Any],
    actor: str,
    now: datetime,
    room: Mapping[int, int] | None = None,
) -> Finished:
    """End jobs that have changed nothing yet, and what depends on them.

    ``room``: what changes to the inventory that come with it take up.
    """
    problem = Canceled(f"canceled by {actor} before it changed anything")
    update_rows(transaction, jobs, ["id"], [_cancellation(row["id"], problem, now) for row in rows])
    record(transaction, [cancel_event(row, actor, problem) for row in rows], now)
    return close(transaction, [canceled(row) for row in rows], now, room)


def _counted(ended: Sequence[Ended], now: datetime) -> list[Asked[Any]]:
    """Count ended jobs in their batches, in the order of their ids."""
    counts: dict[int, Counter[JobState]] = defaultdict(Counter)
    for one in ended:
        if one.batch_id is not None:
            counts[one.batch_id][one.state] += 1
    return [
        CountEnded(
            batch_id=batch_id,
            succeeded=count[JobState.SUCCEEDED],
            failed=count[JobState.FAILED],
            canceled=count[JobState.CANCELED],
            now=now,
        )
        for batch_id, count in sorted(counts.items())
    ]
