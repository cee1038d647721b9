"""Why a job waits: the job, time, backend or host that it waits for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, func, select

from orchestrator.domain.states import BackendState, JobState
from orchestrator.inventory.hosts import ALIVE_SECONDS
from orchestrator.jobs.lanes import due
from orchestrator.store.bulk import among
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, job_dependencies, job_lanes, jobs, workers

Waiting = dict[str, Any]


def waiting_on(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[int, Waiting]:
    """For each job of a page that does not run yet, what it waits for, if anything."""
    still = [row for row in rows if row["state"] in (JobState.WAITING, JobState.QUEUED)]
    if not still:
        return {}
    now: datetime = connection.execute(select(db_now())).scalar_one()
    waiting = [row["id"] for row in still if row["state"] == JobState.WAITING]
    needed = _dependencies(connection, waiting)
    ahead = _ahead(connection, waiting)
    drained = _not_enabled(connection)
    full = _full(connection)
    alive, served = _live_workers(connection)
    found: dict[int, Waiting] = {}
    for row in still:
        job_id, later = row["id"], row["not_before"]
        if row["state"] == JobState.QUEUED:
            state = drained.get(row["backend_id"])
            if state and not row["begun"] and row["queue"] != "control":
                found[job_id] = {
                    "kind": "draining_backend",
                    "detail": f"the backend is {state}: an administrator can resume it",
                }
            elif row["backend_id"] in full and row["queue"].startswith("backend."):
                found[job_id] = {
                    "kind": "limit",
                    "detail": f"the backend runs the {full[row['backend_id']]} jobs at once that "
                    "its max_jobs allows",
                }
            elif row["queue"].startswith("host.") and row["host"] not in alive:
                found[job_id] = {
                    "kind": "host_down",
                    "host": row["host"],
                    "detail": f"no worker is alive on host {row['host']}",
                }
            elif row["queue"] not in served:
                found[job_id] = {
                    "kind": "no_worker",
                    "detail": f"no live worker serves {row['queue']}: start one",
                }
        elif later is not None and later > now:
            kind = "back_off" if row["attempt"] else "start_time"
            text = "the next attempt" if row["attempt"] else "its start time"
            found[job_id] = {"kind": kind, "until": later, "detail": f"{text} is {later:%FT%TZ}"}
        elif job_id in needed:
            other = needed[job_id]
            found[job_id] = {
                "kind": "dependency",
                "job": other,
                "detail": f"job {other}, which it depends on, has not ended",
            }
        elif job_id in ahead:
            other, lane = ahead[job_id]
            found[job_id] = {
                "kind": "earlier_job",
                "job": other,
                "lane": lane,
                "detail": f"job {other} on {lane} comes first",
            }
    return found


def _dependencies(connection: Connection, ids: list[int]) -> dict[int, int]:
    needed = jobs.alias("needed")
    return dict(
        connection.execute(
            select(job_dependencies.c.job_id, func.min(job_dependencies.c.depends_on))
            .join(needed, needed.c.id == job_dependencies.c.depends_on)
            .where(
                among(connection, job_dependencies.c.job_id, ids), needed.c.finished_at.is_(None)
            )
            .group_by(job_dependencies.c.job_id)
        ).all()
    )


def _ahead(connection: Connection, ids: list[int]) -> dict[int, tuple[int, str]]:
    """The job that is nearest to running in a lane of each of these."""
    mine, other, other_job = job_lanes.alias("mine"), job_lanes.alias("other"), jobs.alias("ahead")
    begun = (
        select(mine.c.job_id, other.c.job_id, other.c.lane)
        .join(other, (other.c.lane == mine.c.lane) & (other.c.job_id != mine.c.job_id))
        .where(among(connection, mine.c.job_id, ids), other.c.begun)
    )
    earlier = (
        select(mine.c.job_id, func.min(other.c.job_id), mine.c.lane)
        .join(other, (other.c.lane == mine.c.lane) & (other.c.job_id < mine.c.job_id))
        .join(other_job, other_job.c.id == other.c.job_id)
        .where(among(connection, mine.c.job_id, ids), due(other_job.c.not_before))
        .group_by(mine.c.job_id, mine.c.lane)
    )
    found: dict[int, tuple[int, str]] = {}
    for statement in (earlier, begun):
        for job_id, ahead, lane in connection.execute(statement):
            found[job_id] = (ahead, lane)
    return found


def _not_enabled(connection: Connection) -> dict[int, str]:
    return dict(
        connection.execute(
            select(backends.c.id, backends.c.state).where(backends.c.state != BackendState.ENABLED)
        ).all()
    )


def _full(connection: Connection) -> dict[int, int]:
    """The limits of the backends that have as many jobs running as they may."""
    running = (
        select(jobs.c.backend_id, func.count().label("count"))
        .where(jobs.c.state == JobState.RUNNING)
        .group_by(jobs.c.backend_id)
        .subquery()
    )
    return dict(
        connection.execute(
            select(backends.c.id, backends.c.max_jobs)
            .join(running, running.c.backend_id == backends.c.id)
            .where(running.c.count >= backends.c.max_jobs)
        ).all()
    )


def _live_workers(connection: Connection) -> tuple[set[str], set[str]]:
    """The hosts with live workers, and the queues that these serve."""
    rows = connection.execute(
        select(workers.c.host, workers.c.queues).where(workers.c.seen_at > db_now(-ALIVE_SECONDS))
    ).all()
    return {row.host for row in rows}, {queue for row in rows for queue in row.queues}
