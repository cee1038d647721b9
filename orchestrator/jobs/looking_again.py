"""Volumes whose true state could not be seen: the engine looks again, ever less often.

The job that left one in error could not see what it had left (`volumes.look_again_at`). The
scheduler has `volume.verify` look until it can, and the volume is then what it is.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, exists, select

from orchestrator.domain.requests import parse_request
from orchestrator.domain.states import BackendState, JobState, Role, VolumeState
from orchestrator.inventory.hosts import live_hosts
from orchestrator.jobs.finish import ENGINE
from orchestrator.jobs.submission import Actor, Submission
from orchestrator.store.bulk import update_rows
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, jobs, volumes

#: Seconds between two looks: at first, and at most.
_FIRST_SECONDS = 10.0
_MOST_SECONDS = 300.0
#: Looks that are asked for in one transaction.
_AT_ONCE = 200
_LOOK = "volume.verify"
#: What only the host itself can tell of.
_ON_HOST = ("volume.attach", "volume.detach")


def due(connection: Connection) -> list[Submission]:
    """The looks whose time has come, each counted; whoever calls this submits them.

    One that is lost comes again later. Where the backend is out of reach it is not looked at.
    """
    now: datetime = connection.execute(select(db_now())).scalar_one()
    rows = connection.execute(
        select(
            *(volumes.c.id, volumes.c.name, volumes.c.looks, volumes.c.backend_id),
            backends.c.name.label("backend"),
        )
        .join(backends, backends.c.id == volumes.c.backend_id)
        .where(
            volumes.c.look_again_at <= now,
            volumes.c.state != VolumeState.REMOVED,
            backends.c.configured,
            backends.c.state == BackendState.ENABLED,
            backends.c.unavailable_since.is_(None),
            ~exists().where(
                jobs.c.backend_id == volumes.c.backend_id,
                jobs.c.volume == volumes.c.name,
                jobs.c.action == _LOOK,
                jobs.c.finished_at.is_(None),
            ),
        )
        .order_by(volumes.c.look_again_at)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True, of=volumes)
    ).all()
    update_rows(
        connection,
        volumes,
        ["id"],
        [
            {
                "id": row.id,
                "looks": min(row.looks + 1, 1000),
                "look_again_at": now + timedelta(seconds=_distance(row.looks)),
            }
            for row in rows
        ],
    )
    return [_look(connection, row, now) for row in rows]


def _distance(looks: int) -> float:
    return min(_MOST_SECONDS, _FIRST_SECONDS * 2.0 ** min(looks, 30))


def _look(connection: Connection, row: Any, now: datetime) -> Submission:
    request = {"action": _LOOK, "backend": row.backend, "volume": row.name}
    last = connection.execute(
        select(jobs.c.action, jobs.c.host)
        .where(
            jobs.c.backend_id == row.backend_id,
            jobs.c.volume == row.name,
            jobs.c.volume_id == row.id,
            jobs.c.action != _LOOK,
            jobs.c.state.in_((JobState.FAILED, JobState.CANCELED)),
        )
        .order_by(jobs.c.id.desc())
        .limit(1)
    ).first()
    on_host = last is not None and last.action in _ON_HOST
    if last is not None and on_host and last.host in live_hosts(connection, row.backend):
        request["host"] = last.host
    return Submission(
        requests=[parse_request(request)],
        actor=Actor(ENGINE, Role.OPERATOR),
        reason="its true state could not be seen: looking again",
        idempotency_key=f"look {row.id} {row.looks} {int(now.timestamp())}",
    )
