"""Locks: a host's claim on a volume, taken and released at once, never behind jobs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, delete, or_, select, update

from orchestrator.actions.registry import ACTIONS
from orchestrator.domain.actors import ENGINE, Actor
from orchestrator.domain.errors import (
    InUse,
    InvalidInput,
    Locked,
    NotAllowed,
    VolumeReplaced,
    WrongState,
)
from orchestrator.domain.states import EventKind, Role, VolumeState
from orchestrator.history.events import Event, record
from orchestrator.resources.volume.views import lock_of, volume_row
from orchestrator.store.bulk import insert_rows
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, job_steps, jobs, locks, volumes
from orchestrator.store.transaction import Transaction


def list_locks(
    transaction: Transaction,
    *,
    backend: str | None = None,
    volume: str | None = None,
    owner: str | None = None,
    after: tuple[str, str] | None = None,
    limit: int,
) -> list[dict[str, Any]]:
    """Valid locks by backend and volume, after that on ``after`` (backend, volume)."""
    conditions = [or_(locks.c.expires_at.is_(None), locks.c.expires_at > db_now())]
    if backend is not None:
        conditions.append(backends.c.name == backend)
    if volume is not None:
        conditions.append(volumes.c.name == volume)
    if owner is not None:
        conditions.append(locks.c.owner == owner)
    if after is not None:
        of_backend = and_(backends.c.name == after[0], volumes.c.name > after[1])
        conditions.append(or_(backends.c.name > after[0], of_backend))
    rows = transaction.execute(
        _LOCKS.where(*conditions).order_by(backends.c.name, volumes.c.name).limit(limit)
    ).mappings()
    return [{"backend": row["backend"], "volume": row["volume"], **lock_of(row)} for row in rows]


_LOCKS = (
    select(locks, backends.c.name.label("backend"), volumes.c.name.label("volume"))
    .join(volumes, volumes.c.id == locks.c.volume_id)
    .join(backends, backends.c.id == volumes.c.backend_id)
)


def _held(transaction: Transaction, backend: str, volume: str) -> tuple[Any, Any, datetime]:
    """The volume's row, locked, its lock's row if it has a valid one, and the time."""
    seen = volume_row(transaction, backend, volume)
    transaction.execute(select(volumes.c.id).where(volumes.c.id == seen["id"]).with_for_update())
    row = volume_row(transaction, backend, volume)
    if row["id"] != seen["id"]:
        raise VolumeReplaced(f"volume {volume!r} was replaced just now: try again", field="volume")
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    found = (
        transaction.execute(select(locks).where(locks.c.volume_id == row["id"])).mappings().first()
    )
    if found is not None and found["expires_at"] is not None and found["expires_at"] <= now:
        gone = transaction.execute(delete(locks).where(locks.c.volume_id == row["id"])).rowcount
        if gone:  # else the scheduler was quicker, and has told it
            _record(
                transaction,
                EventKind.LOCK_EXPIRED,
                row,
                backend,
                ENGINE,
                None,
                dict(found),
                None,
                now,
            )
        found = None
    return row, found, now


def take(
    transaction: Transaction,
    backend: str,
    volume: str,
    owner: str,
    actor: Actor,
    *,
    reason: str | None,
    seconds: float | None,
) -> dict[str, Any]:
    """Take or renew the lock for host ``owner``; the lock as it then is.

    Taking it again is renewing: the expiry (``seconds`` from now, or none) is set anew.
    Raises `Locked` if another host holds it.
    """
    row, found, now = _held(transaction, backend, volume)
    if row["state"] not in (VolumeState.AVAILABLE, VolumeState.ERROR):
        raise WrongState(f"volume {volume!r} is {row['state']} and takes no lock", field="volume")
    if found is not None and found["owner"] != owner:
        raise Locked(
            f"host {found['owner']} holds the lock on volume {volume!r}: wait for its release, or "
            "have an administrator break it",
            field="owner",
            lock_owner=found["owner"],
        )
    _refuse_during_change(transaction, row["id"], volume, owner)
    expires = now + timedelta(seconds=seconds) if seconds is not None else None
    values = {"reason": reason, "taken_by": actor.name, "expires_at": expires}
    if found is None:
        new = {"volume_id": row["id"], "owner": owner, "taken_at": now, **values}
        insert_rows(transaction, locks, [new])
        _record(transaction, EventKind.LOCK_TAKEN, row, backend, actor.name, reason, None, new, now)
    else:
        transaction.execute(update(locks).where(locks.c.volume_id == row["id"]).values(**values))
        new = {**found, **values}
        _record(
            transaction, EventKind.LOCK_RENEWED, row, backend, actor.name, reason, found, new, now
        )
    return lock_of(new)


def _refuse_during_change(
    transaction: Transaction, volume_id: str, volume: str, owner: str
) -> None:
    """Refuse a lock while a job that it would have forbidden is already at work."""
    forbidden = [action.name for action in ACTIONS.values() if action.respects_lock]
    at_work = transaction.execute(
        select(jobs.c.id)
        .join(job_steps, job_steps.c.job_id == jobs.c.id)
        .where(
            jobs.c.volume_id == volume_id,
            jobs.c.finished_at.is_(None),
            jobs.c.begun,
            jobs.c.action.in_(forbidden),
            or_(jobs.c.host.is_(None), jobs.c.host != owner),
        )
        .limit(1)
    ).scalar()
    if at_work is not None:
        raise InUse(
            f"job {at_work} is changing volume {volume!r} already: wait for its end",
            field="volume",
            job=at_work,
        )


def release(
    transaction: Transaction,
    backend: str,
    volume: str,
    owner: str | None,
    actor: Actor,
    *,
    force: bool,
    reason: str | None,
) -> None:
    """Release the lock of host ``owner``; nothing happens if there is none.

    With ``force`` any host's lock is broken: only an administrator may, and says why.
    Raises `Locked` if another host holds it and ``force`` is not given.
    """
    row, found, now = _held(transaction, backend, volume)
    if force:
        if not actor.role.includes(Role.ADMIN):
            raise NotAllowed("breaking a lock needs the role admin", field="force")
        if not (reason or "").strip():
            raise InvalidInput("breaking a lock needs a reason", field="reason")
    elif owner is None:
        raise InvalidInput("name the host whose lock is to be released", field="owner")
    if found is None:
        return
    if not force and found["owner"] != owner:
        raise Locked(
            f"host {found['owner']} holds the lock on volume {volume!r}, not {owner}",
            field="owner",
            lock_owner=found["owner"],
        )
    transaction.execute(delete(locks).where(locks.c.volume_id == row["id"]))
    kind = EventKind.LOCK_BROKEN if force else EventKind.LOCK_RELEASED
    _record(transaction, kind, row, backend, actor.name, reason, found, None, now)


def _record(
    transaction: Transaction,
    kind: EventKind,
    row: Any,
    backend: str,
    actor: str,
    reason: str | None,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
    now: datetime,
) -> None:
    data = {"before": _told(before), "after": _told(after)}
    event = Event(
        kind=kind,
        actor=actor,
        backend=backend,
        volume=row["name"],
        volume_id=row["id"],
        reason=reason,
        data=data,
    )
    record(transaction, [event], now)


def _told(lock: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What history says of a lock."""
    if lock is None:
        return None
    expires = lock["expires_at"]
    return {"owner": lock["owner"], "expires_at": expires and expires.isoformat()}
