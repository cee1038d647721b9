"""Findings inside the database: locks and jobs that grow old, promises that do not add up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select

from orchestrator.domain.drivers import Reach
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.sizes import format_size
from orchestrator.domain.states import FindingKind, VolumeState
from orchestrator.domain.targets import named
from orchestrator.findings.recording import Finding
from orchestrator.inventory import promises
from orchestrator.inventory.hosts import ALIVE_SECONDS
from orchestrator.jobs import autosize
from orchestrator.store.columns import db_now
from orchestrator.store.tables import (
    attachments,
    backends,
    job_approvals,
    jobs,
    locks,
    volumes,
    workers,
)
from orchestrator.store.tables import promises as promised
from orchestrator.store.targets import JOB
from orchestrator.store.transaction import Transaction
from workers.execution.auditing.seen import PAGE, Seen
from workers.execution.work import Work

#: A lock that has expired is released within seconds: this much later, nobody does that. A host
#: whose workers are restarted is back by then.
_LATE = timedelta(minutes=5)


def findings(work: Work, transaction: Transaction, seen: Seen) -> Iterator[Finding]:
    """What is wrong without any look at the storage."""
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    alive = _alive(transaction)
    yield from _locks(work, transaction, seen, now)
    yield from _attachments(work, transaction, seen, alive)
    yield from _jobs(work, transaction, now)
    yield from _unseen(work, transaction, now)
    yield from _capacity(work, transaction)
    yield from _full(work, transaction)


def sees(work: Work, row: Mapping[str, Any]) -> bool:
    """Whether an audit on this host can tell of a finding about an attachment."""
    local = DRIVERS[work.claim.driver].reach is Reach.HOST
    return not local or row["host"] == work.host or "boot" in (row["detail"].get("what") or "")


def _alive(transaction: Transaction) -> dict[str, str | None]:
    """The boot ids of hosts with a live worker."""
    rows = transaction.execute(
        select(workers.c.host, workers.c.boot_id)
        .where(workers.c.seen_at > db_now(-ALIVE_SECONDS))
        .order_by(workers.c.seen_at)
    )
    return {row.host: row.boot_id for row in rows}


def _dead(work: Work, transaction: Transaction) -> set[str]:
    """Hosts that have had workers, or volumes attached that only a worker there attaches, and
    have no live worker. Other hosts never have any: nothing is known of them."""
    live = select(workers.c.host).where(workers.c.seen_at > db_now(-_LATE.total_seconds()))
    known: Any = select(workers.c.host)
    if DRIVERS[work.claim.driver].reach is Reach.HOST:
        attached = select(attachments.c.host).join(volumes, volumes.c.id == attachments.c.volume_id)
        known = known.union(attached.where(volumes.c.backend_id == work.claim.backend_id))
    both = (set(transaction.execute(query).scalars()) for query in (known, live))
    return next(both) - next(both)


def _locks(work: Work, transaction: Transaction, seen: Seen, now: datetime) -> Iterator[Finding]:
    rows = transaction.execute(
        select(locks, volumes.c.name, volumes.c.state)
        .join(volumes, volumes.c.id == locks.c.volume_id)
        .where(volumes.c.backend_id == work.claim.backend_id)
        .order_by(volumes.c.name)
        .execution_options(yield_per=PAGE)
    )
    old = timedelta(days=work.here.audit.lock_days)
    dead = _dead(work, transaction)
    for row in rows:
        if seen.is_busy(f"{work.intent.backend}/{row.name}"):
            continue
        kind, why = None, ""
        if row.state == VolumeState.REMOVED:
            kind, why = FindingKind.LOCK, "of a volume that was removed"
        elif row.expires_at is not None and row.expires_at < now - _LATE:
            kind, why = FindingKind.LOCK, f"that expired at {row.expires_at:%FT%TZ}"
        elif row.owner in dead:
            kind, why = FindingKind.LOCK, "though no worker is alive on that host any more"
        elif row.taken_at < now - old:
            kind, why = FindingKind.STUCK, f"since {row.taken_at:%FT%TZ}"
        if kind is not None:
            yield Finding(
                kind=kind,
                subject=f"lock {row.volume_id} {row.taken_at.isoformat()} {row.owner}"[:600],
                text=f"host {row.owner} holds the lock on volume {row.name!r}, {why}",
                volume=row.name,
                volume_id=row.volume_id,
                host=row.owner,
                detail={
                    "what": "lock",
                    "recorded": row.owner,
                    "found": None,
                    "taken_at": row.taken_at.isoformat(),
                },
            )


def _attachments(
    work: Work, transaction: Transaction, seen: Seen, alive: Mapping[str, str | None]
) -> Iterator[Finding]:
    """Attachments from before a host's last boot: what they say means nothing any more."""
    rows = transaction.execute(
        select(attachments, volumes.c.name)
        .join(volumes, volumes.c.id == attachments.c.volume_id)
        .where(
            volumes.c.backend_id == work.claim.backend_id,
            attachments.c.boot_id.is_not(None),
        )
        .order_by(volumes.c.name, attachments.c.host)
        .execution_options(yield_per=PAGE)
    )
    local = DRIVERS[work.claim.driver].reach is Reach.HOST
    for row in rows:
        boot = alive.get(row.host)
        if not local or boot is None or boot == row.boot_id:
            continue
        # Of this host it is known already whether the device is there.
        if row.host == work.host or seen.is_busy(f"{work.intent.backend}/{row.name}"):
            continue
        yield Finding(
            kind=FindingKind.ATTACHMENT,
            subject=f"volume {row.volume_id} on {row.host}"[:600],
            text=f"volume {row.name!r}: it is recorded as attached to {row.host}, which has "
            "been started anew since",
            volume=row.name,
            volume_id=row.volume_id,
            host=row.host,
            detail={
                "what": "boot",
                "recorded": row.device or row.host,
                "found": None,
                "read_only": row.read_only,
            },
        )


def _jobs(work: Work, transaction: Transaction, now: datetime) -> Iterator[Finding]:
    limit = now - timedelta(hours=work.here.audit.stuck_hours)
    rows = transaction.execute(
        select(*JOB)
        .outerjoin(job_approvals, job_approvals.c.job_id == jobs.c.id)
        .where(
            jobs.c.finished_at.is_(None),
            jobs.c.backend_id == work.claim.backend_id,
            jobs.c.id != work.job_id,
            jobs.c.created_at < limit,
            or_(jobs.c.run_at.is_(None), jobs.c.run_at < limit),
            or_(job_approvals.c.job_id.is_(None), job_approvals.c.approved_at < limit),
        )
        .order_by(jobs.c.id)
        .execution_options(yield_per=PAGE)
    )
    for row in rows:
        yield Finding(
            kind=FindingKind.STUCK,
            subject=f"job {row.id}",
            text=f"job {row.id} ({row.action}) is {row.state} since {row.created_at:%FT%TZ}: "
            f"'orchestrator job show {row.id}' says what it waits for, and "
            f"'orchestrator job cancel {row.id}' ends it",
            volume=row.volume,
            volume_id=row.volume_id,
            policy=named(row.targets, "policy"),
            host=row.host,
            job_id=row.id,
            detail={"what": "job", "state": row.state},
        )


def _unseen(work: Work, transaction: Transaction, now: datetime) -> Iterator[Finding]:
    """Volumes whose true state the engine has tried to see for long."""
    rows = transaction.execute(
        select(volumes.c.id, volumes.c.name, volumes.c.detail, volumes.c.changed_at)
        .where(
            volumes.c.backend_id == work.claim.backend_id,
            volumes.c.state == VolumeState.ERROR,
            volumes.c.look_again_at.is_not(None),
            volumes.c.changed_at < now - timedelta(hours=work.here.audit.stuck_hours),
        )
        .order_by(volumes.c.name)
        .execution_options(yield_per=PAGE)
    )
    for row in rows:
        yield Finding(
            kind=FindingKind.STUCK,
            subject=f"volume {row.id} unseen",
            text=f"volume {row.name!r} is in error since {row.changed_at:%FT%TZ}, and what there "
            f"is of it could not be seen since: {row.detail or 'no reason is known'}",
            volume=row.name,
            volume_id=row.id,
            detail={"what": "unseen"},
        )


def _capacity(work: Work, transaction: Transaction) -> Iterator[Finding]:
    backend_id, name = work.claim.backend_id, work.intent.backend
    kept = transaction.execute(
        select(func.coalesce(func.sum(promised.c.promised_bytes), 0)).where(
            promised.c.backend_id == backend_id
        )
    ).scalar_one()
    counted = promises.counted(transaction, backend_id)
    if int(kept) != counted:
        yield Finding(
            kind=FindingKind.CAPACITY,
            subject="sum",
            text=f"{format_size(int(kept))} are recorded as promised on backend {name}, and its "
            f"volumes and unfinished jobs add up to {format_size(counted)}",
            detail={"what": "sum", "recorded": int(kept), "found": counted},
        )
    room = transaction.execute(
        select(backends.c.total_bytes, backends.c.overcommit).where(backends.c.id == backend_id)
    ).one()
    if room.total_bytes is not None and counted > room.total_bytes * room.overcommit:
        limit = int(room.total_bytes * room.overcommit)
        yield Finding(
            kind=FindingKind.CAPACITY,
            subject="limit",
            text=f"backend {name} has promised {format_size(counted)} and may promise "
            f"{format_size(limit)} (overcommit {room.overcommit:g}): give it more room, or "
            "remove volumes",
            detail={"what": "limit", "recorded": counted, "found": limit},
        )


def _full(work: Work, transaction: Transaction) -> Iterator[Finding]:
    """Volumes that are nearly full and are to grow by themselves, and may not."""
    for row, why in autosize.refused(transaction, work.claim.backend_id, work.intent.backend):
        yield Finding(
            kind=FindingKind.CAPACITY,
            subject=f"volume {row.id} full",
            text=f"volume {row.name!r} uses {format_size(row.used_bytes)} of "
            f"{format_size(row.size_bytes)} and does not grow by itself: {why}",
            volume=row.name,
            volume_id=row.id,
            detail={"what": "autosize", "recorded": row.size_bytes, "found": row.used_bytes},
        )
