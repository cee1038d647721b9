"""Why a job waits: the job, time, backend or host that it waits for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select

from orchestrator.domain.errors import Outage, StillWorking
from orchestrator.domain.states import BackendState, JobState, WaitingKind
from orchestrator.inventory.hosts import ALIVE_SECONDS
from orchestrator.jobs.lanes import UNAPPROVED
from orchestrator.store.asking import Question, Rows, one_of
from orchestrator.store.columns import db_now
from orchestrator.store.conditions import due
from orchestrator.store.tables import backends, job_dependencies, job_lanes, jobs, workers
from orchestrator.store.transaction import Transaction

Waiting = dict[str, Any]

_NOW = Question(select(db_now().label("now")))
_other = jobs.alias("other")
#: The first unfinished job that each of these depends on.
_NEEDED = Question(
    select(job_dependencies.c.job_id, func.min(job_dependencies.c.depends_on).label("other"))
    .join(_other, _other.c.id == job_dependencies.c.depends_on)
    .where(one_of(job_dependencies.c.job_id, "ids"), _other.c.finished_at.is_(None))
    .group_by(job_dependencies.c.job_id)
)
_mine, _lane = job_lanes.alias("mine"), job_lanes.alias("lane")
#: The first job before each of these in each of its lanes.
_EARLIER = Question(
    select(_mine.c.job_id, func.min(_lane.c.job_id).label("other"), _mine.c.lane)
    .join(_lane, (_lane.c.lane == _mine.c.lane) & (_lane.c.job_id < _mine.c.job_id))
    .join(_other, _other.c.id == _lane.c.job_id)
    .where(one_of(_mine.c.job_id, "ids"), due(_other.c.not_before))
    .group_by(_mine.c.job_id, _mine.c.lane)
)
#: The job that holds a lane of each of these.
_HOLDING = Question(
    select(_mine.c.job_id, _lane.c.job_id.label("other"), _lane.c.lane)
    .join(_lane, (_lane.c.lane == _mine.c.lane) & (_lane.c.job_id != _mine.c.job_id))
    .where(one_of(_mine.c.job_id, "ids"), _lane.c.begun)
)
#: The backends that take no new work, or are out of reach.
_NOT_THERE = Question(
    select(
        *(backends.c.id, backends.c.name, backends.c.state),
        *(backends.c.unavailable_since, backends.c.error),
    ).where(
        or_(backends.c.state != BackendState.ENABLED, backends.c.unavailable_since.is_not(None))
    )
)


_running = (
    select(jobs.c.backend_id, func.count().label("count"))
    .where(jobs.c.state == JobState.RUNNING)
    .group_by(jobs.c.backend_id)
    .subquery()
)
#: The backends that have as many jobs running as they may.
_FULL = Question(
    select(backends.c.id, backends.c.max_jobs)
    .join(_running, _running.c.backend_id == backends.c.id)
    .where(_running.c.count >= backends.c.max_jobs)
)
_ALIVE = Question(
    select(workers.c.host, workers.c.queues).where(workers.c.seen_at > db_now(-ALIVE_SECONDS))
)


def waiting_on(transaction: Transaction, rows: Rows) -> dict[int, Waiting]:
    """For each job of a page that does not run yet, what it waits for, if anything."""
    still = [row for row in rows if row["state"] in (JobState.WAITING, JobState.QUEUED)]
    if not still:
        return {}
    waiting = [row["id"] for row in still if row["state"] == JobState.WAITING]
    [clock], needing, earlier, holding, not_there, at_limit, living = transaction.ask(
        _NOW(),
        _NEEDED(ids=waiting),
        _EARLIER(ids=waiting),
        _HOLDING(ids=waiting),
        _NOT_THERE(),
        _FULL(),
        _ALIVE(),
    )
    now: datetime = clock["now"]
    needed = {row["job_id"]: row["other"] for row in needing}
    # One that holds the lane is nearer to running than one that is first in it.
    ahead = {row["job_id"]: (row["other"], row["lane"]) for row in (*earlier, *holding)}
    drained = {row["id"]: row["state"] for row in not_there if row["state"] != BackendState.ENABLED}
    away = {row["id"]: row for row in not_there if row["unavailable_since"] is not None}
    full = {row["id"]: row["max_jobs"] for row in at_limit}
    alive = {row["host"] for row in living}
    served = {queue for row in living for queue in row["queues"]}
    found: dict[int, Waiting] = {}
    for row in still:
        job_id, later = row["id"], row["not_before"]
        if row["state"] == JobState.QUEUED:
            state = drained.get(row["backend_id"])
            if state and not row["begun"] and row["queue"] != "control":
                found[job_id] = {
                    "kind": WaitingKind.DRAINING_BACKEND,
                    "detail": _NO_NEW_WORK[BackendState(state)],
                }
            elif row["backend_id"] in away and row["queue"] != "control":
                found[job_id] = _waits_for_backend(row, away[row["backend_id"]])
            elif row["backend_id"] in full and row["queue"].startswith("backend."):
                found[job_id] = {
                    "kind": WaitingKind.LIMIT,
                    "detail": f"the backend runs the {full[row['backend_id']]} jobs at once that "
                    "its max_jobs allows",
                }
            elif row["queue"].startswith("host.") and row["host"] not in alive:
                found[job_id] = {
                    "kind": WaitingKind.HOST_DOWN,
                    "host": row["host"],
                    "detail": f"no worker is alive on host {row['host']}",
                }
            elif row["queue"] not in served:
                found[job_id] = {
                    "kind": WaitingKind.NO_WORKER,
                    "detail": f"no live worker serves {row['queue']}: start one",
                }
        elif later is not None and _met_an_outage(row):
            found[job_id] = _waits_for_backend(row, away.get(row["backend_id"]))
        elif later is not None and later > now:
            if later == UNAPPROVED:
                found[job_id] = {
                    "kind": WaitingKind.APPROVAL,
                    "detail": "an administrator has to approve it: "
                    f"'orchestrator job approve {job_id}'",
                }
                continue
            kind, text = _waits_for_time(row)
            found[job_id] = {"kind": kind, "until": later, "detail": f"{text} is {later:%FT%TZ}"}
        elif job_id in needed:
            other = needed[job_id]
            found[job_id] = {
                "kind": WaitingKind.DEPENDENCY,
                "job": other,
                "detail": f"job {other}, which it depends on, has not ended",
            }
        elif job_id in ahead:
            other, lane = ahead[job_id]
            found[job_id] = {
                "kind": WaitingKind.EARLIER_JOB,
                "job": other,
                "lane": lane,
                "detail": f"job {other} on {lane} comes first",
            }
    return found


#: Why a backend takes no new work.
_NO_NEW_WORK = {
    BackendState.DRAINING: "the backend is draining: an administrator can resume it",
    BackendState.DISABLED: "the backend is disabled by the configuration: take out enabled = false "
    "there, and restart",
}


def _met_an_outage(row: Mapping[str, Any]) -> bool:
    return row["error"] is not None and row["error"]["code"] == Outage.code


def _waits_for_backend(row: Mapping[str, Any], away: Mapping[str, Any] | None) -> Waiting:
    """What is told of a job whose backend was out of reach when it was to run."""
    if away is None:
        return {
            "kind": WaitingKind.BACKEND,
            "until": row["not_before"],
            "detail": f"its backend was out of reach ({row['error']['detail']}); the next look is "
            f"{row['not_before']:%FT%TZ}",
        }
    return {
        "kind": WaitingKind.BACKEND,
        "since": away["unavailable_since"],
        "detail": f"backend {away['name']} is out of reach since "
        f"{away['unavailable_since']:%FT%TZ}: {(away['error'] or row['error'])['detail']}. It is "
        f"looked at again and again, and the job {_GOES_ON[row['cancel_requested_at'] is None]}",
    }


#: What becomes of a job once its backend is back, by whether it goes on then.
_GOES_ON = {
    True: "goes on by itself",
    False: "ends then, as what it has done by now demands; canceled once more, it ends at once and "
    "without knowing",
}


_PACED = "the backend's rate_limits allow one more of these at a time, and the next"


def _waits_for_time(row: Mapping[str, Any]) -> tuple[WaitingKind, str]:
    """The kind and the name of the time that a job waits for."""
    if row["error"] is not None and row["error"]["code"] == StillWorking.code:
        return WaitingKind.BACKEND, f"{row['error']['detail']}; the next look"
    if row["error"] is not None:
        return WaitingKind.BACK_OFF, "the next attempt"
    if row["begun"]:
        return (
            WaitingKind.LIMIT,
            _PACED,
        )
    return WaitingKind.START_TIME, "its start time"
