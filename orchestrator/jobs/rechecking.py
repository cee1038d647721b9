"""Rechecking what is in error because nobody could see it, at growing intervals.

The job that left a volume so could not see what it had left (`volumes.look_again_at`). The
scheduler has `volume.verify` look until it can, and the volume is then what it is. Of export
policies there are few: when they are looked at next is read off the looks there were.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, exists, or_, select

from orchestrator.actions.policy.verify import VERIFY as VERIFY_POLICY
from orchestrator.actions.requests import parse_request
from orchestrator.actions.volume.attach import ATTACH
from orchestrator.actions.volume.detach import DETACH
from orchestrator.actions.volume.verify import VERIFY
from orchestrator.domain.actors import ENGINE, Actor
from orchestrator.domain.drivers import Reach
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.outlook import Intent
from orchestrator.domain.states import (
    BackendState,
    JobState,
    PolicyState,
    Role,
    VolumeState,
)
from orchestrator.inventory.hosts import live_hosts
from orchestrator.jobs.claim import CHANGES
from orchestrator.jobs.submission import Submission
from orchestrator.resources.changes import Change
from orchestrator.resources.registry import RESOURCES
from orchestrator.resources.volume.changes import MayBeAttached
from orchestrator.store.bulk import update_rows
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, job_steps, jobs, policies, volumes
from orchestrator.store.targets import names
from orchestrator.store.transaction import Transaction

#: Seconds between two looks: at first, and at most.
_FIRST_SECONDS = 10.0
_MOST_SECONDS = 300.0
#: Looks that are asked for in one transaction.
_AT_ONCE = 200
_REASON = "its true state could not be seen: looking again"
#: What only the host itself can tell of.
_ON_HOST = (ATTACH.name, DETACH.name)


def unseen(intent: Intent, why: str, now: datetime) -> list[Change]:
    """The state of what a job has made or changed, and nobody can tell the state of.

    It is in error, and looked at again until it has been seen. Until then it counts as in use
    by the host that was to attach it: no other host can see that it is not.
    """
    action = intent.action
    changed = RESOURCES.get(action.subject)
    # An export leaves its volume as it was; what was to be adopted has no row yet.
    if changed is None or action.leaves_files or action.adopts or not intent.id_of(changed.kind):
        return []
    changes = [*changed.unseen(intent, why, now)]
    if action is ATTACH and intent.host is not None:
        read_only = bool(intent.params.get("read_only"))
        changes.append(MayBeAttached(intent.volume_id or "", intent.host, read_only))
    return changes


def host_to_ask(
    transaction: Transaction, backend_id: int, volume: str, volume_id: str
) -> str | None:
    """The host of which it is not known whether it has a volume in error attached.

    It is that of the last job that has begun to change the volume, if that was its use there and
    did not succeed. What was refused before it began tells nothing; and a forced detach begins
    nothing, but once it has succeeded there is no host left to ask.
    """
    begun = exists().where(job_steps.c.job_id == jobs.c.id, CHANGES)
    last = transaction.execute(
        select(jobs.c.action, jobs.c.host, jobs.c.state)
        .join(volumes, volumes.c.id == jobs.c.volume_id)
        .where(
            volumes.c.state == VolumeState.ERROR,
            jobs.c.backend_id == backend_id,
            jobs.c.volume == volume,
            jobs.c.volume_id == volume_id,
            or_(begun, and_(jobs.c.action.in_(_ON_HOST), jobs.c.state == JobState.SUCCEEDED)),
        )
        .order_by(jobs.c.id.desc())
        .limit(1)
    ).first()
    if last is None or last.action not in _ON_HOST or last.state == JobState.SUCCEEDED:
        return None
    host: str | None = last.host
    return host


def due(transaction: Transaction) -> list[Submission]:
    """The looks whose time has come, each counted; whoever calls this submits them.

    One that is lost comes again later. Where the backend is out of reach it is not looked at,
    nor while no worker is alive on the only host that can tell.
    """
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    rows = transaction.execute(
        select(
            *(volumes.c.id, volumes.c.name, volumes.c.looks, volumes.c.backend_id),
            *(backends.c.name.label("backend"), backends.c.driver),
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
                jobs.c.action == VERIFY.name,
                jobs.c.finished_at.is_(None),
            ),
        )
        .order_by(volumes.c.look_again_at)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True, of=volumes)
    ).all()
    looks: list[Submission] = []
    counted: list[dict[str, Any]] = []
    for row in rows:
        host = host_to_ask(transaction, row.backend_id, row.name, row.id)
        seen, distance = row.looks + 1, _distance(row.looks)
        if host is not None and host not in live_hosts(transaction, row.backend):
            if DRIVERS[row.driver].reach is Reach.HOST:
                seen, distance = row.looks, _FIRST_SECONDS
            host = None
        if seen > row.looks:
            looks.append(_look(row, host, now))
        later = now + timedelta(seconds=distance)
        counted.append({"id": row.id, "looks": min(seen, 1000), "look_again_at": later})
    update_rows(transaction, volumes, ["id"], counted)
    return looks


def policies_due(transaction: Transaction) -> list[Submission]:
    """The looks at export policies in error whose time has come; whoever calls this submits them.

    One that has been seen, and is in error still, is a finding of the audit: only a person knows
    what its rules should be.
    """
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    rows = transaction.execute(
        select(*(policies.c.uid, policies.c.name, policies.c.backend_id, policies.c.changed_at))
        .add_columns(backends.c.name.label("backend"))
        .join(backends, backends.c.id == policies.c.backend_id)
        .where(
            policies.c.state == PolicyState.ERROR,
            backends.c.configured,
            backends.c.state == BackendState.ENABLED,
            backends.c.unavailable_since.is_(None),
        )
        .order_by(policies.c.id)
        .limit(_AT_ONCE)
    ).all()
    return [look for row in rows if (look := _look_at_policy(transaction, row, now)) is not None]


def _look_at_policy(transaction: Transaction, row: Any, now: datetime) -> Submission | None:
    looked = transaction.execute(
        select(jobs.c.state, jobs.c.finished_at)
        .where(
            jobs.c.action == VERIFY_POLICY.name,
            jobs.c.backend_id == row.backend_id,
            names("policy", row.name, row.uid),
            jobs.c.created_at >= row.changed_at,
        )
        .order_by(jobs.c.id.desc())
    ).all()
    if looked:
        last = looked[0]
        if last.finished_at is None or last.state == JobState.SUCCEEDED:
            return None
        if now < last.finished_at + timedelta(seconds=_distance(len(looked) - 1)):
            return None
    return Submission(
        requests=[
            parse_request(
                {"action": VERIFY_POLICY.name, "backend": row.backend, "policy": row.name}
            )
        ],
        actor=Actor(ENGINE, Role.OPERATOR),
        reason=_REASON,
        idempotency_key=f"look {row.uid} {len(looked)} {int(row.changed_at.timestamp())}",
    )


def _distance(looks: int) -> float:
    return min(_MOST_SECONDS, _FIRST_SECONDS * 2.0 ** min(looks, 30))


def _look(row: Any, host: str | None, now: datetime) -> Submission:
    request = {"action": VERIFY.name, "backend": row.backend, "volume": row.name}
    if host is not None:
        request["host"] = host
    return Submission(
        requests=[parse_request(request)],
        actor=Actor(ENGINE, Role.OPERATOR),
        reason=_REASON,
        idempotency_key=f"look {row.id} {row.looks} {int(now.timestamp())}",
    )
