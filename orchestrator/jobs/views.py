"""What readers see of jobs and batches: plain values, ready to be told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, Table, exists, func, select

from orchestrator.domain.errors import Gone, Problem, UnknownJob
from orchestrator.domain.outlook import Intent
from orchestrator.domain.states import FINISHED, JobState
from orchestrator.domain.targets import COLUMNS, KINDS, named
from orchestrator.history.events import of_job
from orchestrator.jobs.waiting import waiting_on
from orchestrator.store.asking import Question, Rows, one_of
from orchestrator.store.columns import db_now
from orchestrator.store.conditions import unsuccessful
from orchestrator.store.tables import (
    backends,
    batches,
    event_archives,
    events,
    job_attempts,
    job_dependencies,
    job_steps,
    jobs,
)
from orchestrator.store.targets import JOB, names
from orchestrator.store.transaction import Transaction

View = dict[str, Any]

#: Jobs in these states, or claimed more than once, may have attempts that did not end well.
_TRIED = (JobState.WAITING, JobState.QUEUED, JobState.FAILED, JobState.CANCELED)

#: Columns that the view of a job takes over unchanged, before and after its other targets.
_ABOUT = ("id", "action", "volume", "snapshot")
_TOLD = (
    "host", "params", "state", "priority",
    "attempt", "max_attempts", "progress", "result", "error", "submitted_by", "account", "reason",
    "batch_id", "ref", "retry_of", "volume_id", "run_at", "created_at", "started_at",
    "finished_at", "worker",
)  # fmt: skip


_OTHERS = tuple(kind for kind in KINDS if kind not in COLUMNS)

#: Jobs, with the names of their backends; and whether they need others, or have a journal.
_MORE = (
    exists().where(job_dependencies.c.job_id == jobs.c.id).label("needs"),
    exists().where(job_steps.c.job_id == jobs.c.id).label("journaled"),
)
_JOB = select(*JOB, backends.c.name.label("backend"), *_MORE).join(
    backends, backends.c.id == jobs.c.backend_id
)
#: The name is looked up by itself: a plan that began with the backend would read all its jobs.
_BACKEND = select(backends.c.name).where(backends.c.id == jobs.c.backend_id).scalar_subquery()
_JOBS = Question(
    select(*JOB, _BACKEND.label("backend"), *_MORE)
    .where(one_of(jobs.c.id, "ids"))
    .order_by(jobs.c.id)
)
_NEEDED = Question(
    select(job_dependencies.c.job_id, job_dependencies.c.depends_on)
    .where(one_of(job_dependencies.c.job_id, "ids"))
    .order_by(job_dependencies.c.depends_on)
)
_STEPS = Question(
    select(job_steps)
    .where(one_of(job_steps.c.job_id, "ids"))
    .order_by(job_steps.c.job_id, job_steps.c.seq)
)
_ATTEMPTS = Question(
    select(job_attempts)
    .where(one_of(job_attempts.c.job_id, "ids"))
    .order_by(job_attempts.c.job_id, job_attempts.c.fence)
)


def job_views(transaction: Transaction, ids: Iterable[int]) -> dict[int, View]:
    """The jobs with these ids, those that there are, by id."""
    [rows] = transaction.ask(_JOBS(ids=sorted(set(ids))))
    return {view["id"]: view for view in _views(transaction, rows)}


def job_view(transaction: Transaction, job_id: int) -> View:
    """One job. Raises `UnknownJob`."""
    found = job_views(transaction, [job_id]).get(job_id)
    if found is None:
        raise not_there(transaction, "job", job_id)
    return found


def _end_of(table: Table) -> Question:
    return Question(select(table.c.finished_at).where(one_of(table.c.id, "ids")))


_ENDS = {"job": _end_of(jobs), "batch": _end_of(batches)}


def has_ended(transaction: Transaction, kind: str, id_: int) -> bool:
    """Whether a ``job`` or a ``batch`` has ended. Raises `UnknownJob`."""
    [rows] = transaction.ask(_ENDS[kind](ids=[id_]))
    if not rows:
        raise not_there(transaction, kind, id_)
    return rows[0]["finished_at"] is not None


def not_there(transaction: Transaction, kind: str, id_: int) -> Problem:
    """What is wrong with a job or batch that was not found."""
    if kind == "job" and of_job(transaction, id_, (0, 0), 1):
        return Gone(
            f"job {id_} has ended and was archived; what happened is still in the history: "
            f"'orchestrator event list --job {id_}'"
        )
    if kind == "job" and _may_have_been(transaction, id_):
        return Gone(
            f"there is no job {id_} here: if there was one, it has ended, and was archived with "
            "its events; 'orchestrator audit read' shows what is in the files of the archive"
        )
    return UnknownJob(f"there is no {kind} {id_}", field=kind)


def _may_have_been(transaction: Transaction, job_id: int) -> bool:
    """Whether there may have been a job of which not even the events are left."""
    archived = transaction.execute(select(exists(select(event_archives.c.base)))).scalar_one()
    newest = transaction.execute(select(func.max(jobs.c.id))).scalar()
    return bool(archived) and newest is not None and job_id < newest


def end_of_archived(transaction: Transaction, job_id: int) -> JobState | None:
    """How a job has ended that is no longer there; None if there never was one."""
    ends = {f"job.{state}": state for state in FINISHED}
    query = select(events.c.kind).where(events.c.job_id == job_id, events.c.kind.in_(ends))
    kind = transaction.execute(query).scalar()
    return None if kind is None else ends[kind]


def accepted_view(row: Mapping[str, Any], intent: Intent, depends_on: list[int]) -> View:
    """A job that was queued a moment ago, in this transaction; ``row`` as inserted."""
    return {
        **{name: row.get(name) for name in _ABOUT},
        **{kind: intent.name_of(kind) for kind in _OTHERS},
        **{name: row.get(name) for name in _TOLD},
        "backend": intent.backend,
        "waiting_on": None,
        "depends_on": depends_on,
        "cancel_requested": False,
        "steps": [],
        "attempts": [],
    }


def list_jobs(
    transaction: Transaction,
    *,
    states: Sequence[JobState] = (),
    backend: str | None = None,
    filters: Mapping[str, Any],
    before: int | None = None,
    limit: int,
) -> list[View]:
    """Jobs, newest first, below the id ``before``."""
    statement = listing(states, backend, filters, before).limit(limit)
    rows: Any = transaction.execute(statement).mappings().all()
    return _views(transaction, rows)


def listing(
    states: Sequence[JobState],
    backend: str | None,
    filters: Mapping[str, Any],
    before: int | None,
) -> Select[Any]:
    """The question that `list_jobs` asks, without its limit."""
    conditions = [
        names(name, value) if name in _OTHERS else jobs.c[name] == value
        for name, value in filters.items()
    ]
    if states:
        conditions.append(jobs.c.state.in_(states))
        if not set(FINISHED).intersection(states):
            conditions.append(jobs.c.finished_at.is_(None))  # there is an index of those
    if backend is not None:
        conditions.append(backends.c.name == backend)
    if before is not None:
        conditions.append(jobs.c.id < before)
    return _JOB.where(*conditions).order_by(jobs.c.id.desc())


def failures_of_batch(transaction: Transaction, batch_id: int, most: int = 1000) -> list[View]:
    """Why jobs of a batch failed: ``{code, jobs, job, detail}`` of each error code, the most
    frequent first, with the first job that has it. Of the first ``most`` that failed.
    """
    of_batch = select(func.min(jobs.c.id), func.max(jobs.c.id)).where(jobs.c.batch_id == batch_id)
    first, last = transaction.execute(of_batch).one()
    # Read by the index of what went wrong, however many jobs of the batch went well.
    query = select(jobs.c.id, jobs.c.error).where(
        unsuccessful(),
        jobs.c.id.between(first, last),
        jobs.c.batch_id == batch_id,
        jobs.c.state == JobState.FAILED,
    )
    causes: dict[str, View] = {}
    for row in transaction.execute(query.order_by(jobs.c.id).limit(most)):
        error = row.error or {}
        code = error.get("code", "")
        cause = causes.setdefault(
            code, {"code": code, "jobs": 0, "job": row.id, "detail": error.get("detail")}
        )
        cause["jobs"] += 1
    return sorted(causes.values(), key=lambda cause: -cause["jobs"])


@dataclass(frozen=True)
class EndedLately:
    """How many jobs ended in each of the latest minutes, the present one last."""

    minutes: list[dict[JobState, int]]
    #: Whether more of them may have ended than were looked at.
    at_least: bool


def ended_lately(transaction: Transaction, minutes: int, most: int = 2000) -> EndedLately:
    """The jobs that ended in the latest minutes, of the ``most`` newest: it costs no more.

    Jobs that waited for long before they ended, with as many newer ones, are not among them.
    """
    now = transaction.execute(select(db_now())).scalar_one()
    query = select(jobs.c.state, jobs.c.created_at, jobs.c.finished_at).order_by(jobs.c.id.desc())
    rows = transaction.execute(query.limit(most)).all()
    ended: list[dict[JobState, int]] = [dict.fromkeys(FINISHED, 0) for _ in range(minutes)]
    for row in rows:
        if row.finished_at is not None:
            ago = int((now - row.finished_at).total_seconds() // 60)
            if ago < minutes:
                ended[-1 - max(ago, 0)][JobState(row.state)] += 1
    oldest = rows[-1].created_at if len(rows) == most else None
    begins = now - timedelta(minutes=minutes)
    return EndedLately(ended, at_least=oldest is not None and oldest > begins)


def list_batch_jobs(
    transaction: Transaction, batch_id: int, after: int | None, limit: int
) -> list[View]:
    """Jobs of a batch in the order of submission, above the id ``after``."""
    batch_view(transaction, batch_id)
    statement = (
        _JOB.where(jobs.c.batch_id == batch_id, jobs.c.id > (after or 0))
        .order_by(jobs.c.id)
        .limit(limit)
    )
    rows: Any = transaction.execute(statement).mappings().all()
    return _views(transaction, rows)


def _views(transaction: Transaction, rows: Rows) -> list[View]:
    """The views of jobs, with what they need, their journals and their attempts."""
    needing = [row["id"] for row in rows if row["needs"]]
    journaled = [row["id"] for row in rows if row["journaled"]]
    # An attempt is noted unless it is the one that succeeds.
    tried = [row["id"] for row in rows if row["claims"] > 1 or row["state"] in _TRIED]
    questions = ((_NEEDED, needing), (_STEPS, journaled), (_ATTEMPTS, tried))
    answers = iter(transaction.ask(*(question(ids=ids) for question, ids in questions if ids)))
    needed, written, attempted = (next(answers) if ids else [] for _, ids in questions)
    waits = waiting_on(transaction, rows)
    depends: dict[int, list[int]] = defaultdict(list)
    for row in needed:
        depends[row["job_id"]].append(row["depends_on"])
    steps: dict[int, list[View]] = defaultdict(list)
    for row in written:
        told = {name: row[name] for name in ("name", "state", "at", "detail")}
        steps[row["job_id"]].append(told)
    attempts: dict[int, list[View]] = defaultdict(list)
    for row in attempted:
        told = {name: row[name] for name in ("attempt", "outcome", "ended_at", "error")}
        attempts[row["job_id"]].append(told)
    return [
        {
            **{name: row[name] for name in _ABOUT},
            **{kind: named(row["targets"], kind) for kind in _OTHERS},
            **{name: row[name] for name in _TOLD},
            "progress": _progress(row),
            "backend": row["backend"],
            "waiting_on": waits.get(row["id"]),
            "depends_on": depends.get(row["id"], []),
            "cancel_requested": row["cancel_requested_at"] is not None,
            "steps": steps.get(row["id"], []),
            "attempts": attempts.get(row["id"], []),
        }
        for row in rows
    ]


def _progress(row: Mapping[str, Any]) -> View | None:
    """How far a job has come: one that has ended all the way, if it succeeded."""
    told: View | None = row["progress"]
    if told is None or row["finished_at"] is None:
        return told
    return {**told, "done": told["total"]} if row["state"] == JobState.SUCCEEDED else None


_BATCHES = Question(select(batches).where(one_of(batches.c.id, "ids")))


def batch_view(transaction: Transaction, batch_id: int) -> View:
    """One batch with its counts. Raises `UnknownJob`."""
    found = batch_views(transaction, [batch_id]).get(batch_id)
    if found is None:
        raise not_there(transaction, "batch", batch_id)
    return found


def batch_views(transaction: Transaction, ids: Iterable[int]) -> dict[int, View]:
    """The batches with these ids, those that there are, by id."""
    [rows] = transaction.ask(_BATCHES(ids=sorted(set(ids))))
    return {row["id"]: _batch(row) for row in rows}


def list_batches(transaction: Transaction, *, before: int | None, limit: int) -> list[View]:
    """Batches, newest first, below the id ``before``."""
    query = select(batches).order_by(batches.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(batches.c.id < before)
    rows: Any = transaction.execute(query).mappings()
    return [_batch(row) for row in rows]


def _batch(row: Mapping[str, Any]) -> View:
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
