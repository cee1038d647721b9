"""Events: written in the transaction of what they tell, numbered once it has committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, func, select, text

from orchestrator import failpoints
from orchestrator.domain.errors import Gone
from orchestrator.store.bulk import draw, insert_rows, update_rows
from orchestrator.store.tables import events

#: At most this many events get their number in one transaction.
NUMBERED_AT_ONCE = 5_000
#: The advisory lock of the one sequencer.
_SEQUENCER_LOCK = 0x73657175


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of history. ``actor`` is the name of the token, or ``orchestrator``."""

    kind: str
    actor: str
    backend: str | None = None
    volume: str | None = None
    volume_id: str | None = None
    snapshot: str | None = None
    job_id: int | None = None
    reason: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


def job_event(
    row: Mapping[str, Any],
    kind: str,
    actor: str,
    data: dict[str, Any],
    *,
    backend: str,
    reason: str | None = None,
) -> Event:
    """What happened to a job; ``row`` has the columns of `jobs`, ``backend`` is its name."""
    return Event(
        kind=kind,
        actor=actor,
        backend=backend,
        volume=row["volume"],
        volume_id=row["volume_id"],
        snapshot=row["snapshot"],
        job_id=row["id"],
        reason=reason,
        data=data,
    )


def record(connection: Connection, happened: Sequence[Event], at: datetime) -> None:
    """Write events, in this order, in the transaction of what they tell."""
    if not happened:
        return
    ids = draw(connection, "events", len(happened))
    insert_rows(
        connection,
        events,
        [
            {
                "id": number,
                "at": at,
                "kind": event.kind,
                "backend": event.backend,
                "volume": event.volume,
                "volume_id": event.volume_id,
                "snapshot": event.snapshot,
                "job_id": event.job_id,
                "actor": event.actor,
                "reason": event.reason,
                "data": event.data or None,
            }
            for number, event in zip(ids, happened, strict=True)
        ],
    )


def number_committed(connection: Connection) -> int:
    """Give committed events their numbers, without gaps; returns how many got one.

    Only one transaction at a time does this, so whatever it sees gets lower numbers than
    what commits later: a reader that follows the numbers misses nothing.
    """
    if connection.dialect.name == "postgresql":
        taken = connection.execute(
            text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": _SEQUENCER_LOCK}
        ).scalar_one()
        if not taken:
            return 0
    waiting = (
        connection.execute(
            select(events.c.id)
            .where(events.c.number.is_(None))
            .order_by(events.c.id)
            .limit(NUMBERED_AT_ONCE)
        )
        .scalars()
        .all()
    )
    if not waiting:
        return 0
    last = latest_number(connection)
    update_rows(
        connection,
        events,
        ["id"],
        [{"id": id_, "number": last + place} for place, id_ in enumerate(waiting, start=1)],
    )
    failpoints.reach("events.before_commit", connection)
    return len(waiting)


def latest_number(connection: Connection) -> int:
    """The highest number given so far; 0 before the first."""
    return int(connection.execute(select(func.coalesce(func.max(events.c.number), 0))).scalar_one())


def read_after(
    connection: Connection, after: int, limit: int, filters: Mapping[str, Any] | None = None
) -> Sequence[Row[Any]]:
    """Numbered events above ``after``, in order. Raises `Gone` if some were archived."""
    conditions = [events.c[name] == value for name, value in (filters or {}).items()]
    rows = connection.execute(
        select(events)
        .where(events.c.number > after, *conditions)
        .order_by(events.c.number)
        .limit(limit)
    ).all()
    oldest = connection.execute(select(func.min(events.c.number))).scalar()
    if oldest is not None and oldest > after + 1:
        raise Gone(
            f"events up to {oldest - 1} have been archived: begin after {oldest - 1}",
            oldest=oldest,
        )
    return rows


def of_job(connection: Connection, job_id: int, after: int, limit: int) -> Sequence[Row[Any]]:
    """The events of a job above the internal id ``after``, in order, numbered or not."""
    return connection.execute(
        select(events)
        .where(events.c.job_id == job_id, events.c.id > after)
        .order_by(events.c.id)
        .limit(limit)
    ).all()
