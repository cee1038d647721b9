"""Events: written in the transaction of what they tell, numbered once it has committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, func, select, tuple_

from orchestrator.domain.action import source_of
from orchestrator.domain.errors import EpochChanged, Gone
from orchestrator.domain.outlook import Intent
from orchestrator.domain.targets import Target, TargetRole, named
from orchestrator.history import pages
from orchestrator.store.asking import Asked
from orchestrator.store.bulk import Parent, inserted_family, update_rows
from orchestrator.store.columns import db_now
from orchestrator.store.lives import all_of
from orchestrator.store.tables import event_archives, event_commits, events
from orchestrator.store.transaction import Transaction

#: Events of at most this many commits get their numbers in one transaction.
NUMBERED_AT_ONCE = 5_000
#: The advisory lock of the one sequencer.
_SEQUENCER_LOCK = 0x73657175

_COMMIT = Parent(event_commits, "commits", "commit_id")
#: The commit that was numbered last: the number of its last event, and the highest id of a commit
#: up to there.
_LATEST = (
    select(
        (event_commits.c.base + event_commits.c.events).label("number"),
        (event_commits.c.id + func.coalesce(event_commits.c.behind, 0)).label("highest"),
    )
    .where(event_commits.c.base.is_not(None))
    .order_by(event_commits.c.base.desc())
    .limit(1)
)


class Named(NamedTuple):
    """An object that an event names: what it was in it, and which one."""

    role: str
    kind: str
    name: str
    id: str | None = None
    backend: str | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of history. ``actor`` is the name of the token, or ``orchestrator``."""

    kind: str
    actor: str
    backend: str | None = None
    volume: str | None = None
    volume_id: str | None = None
    snapshot: str | None = None
    policy: str | None = None
    job_id: int | None = None
    reason: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    #: Further objects, in their order.
    objects: Sequence[Named] = ()


def intent_event(
    intent: Intent, kind: str, actor: str, data: dict[str, Any], *, job_id: int
) -> Event:
    """What happened to a job that means ``intent``."""
    return Event(
        kind=kind,
        actor=actor,
        backend=intent.backend,
        volume=intent.volume,
        volume_id=intent.volume_id,
        snapshot=intent.snapshot,
        policy=intent.policy,
        job_id=job_id,
        reason=intent.reason,
        data=data,
        objects=_without_column(intent.others, intent.backend, intent.params),
    )


def job_event(
    row: Mapping[str, Any],
    kind: str,
    actor: str,
    data: dict[str, Any],
    *,
    backend: str,
    reason: str | None = None,
) -> Event:
    """What happened to a job; ``row`` has the columns of `JOB`, ``backend`` is its name."""
    return Event(
        kind=kind,
        actor=actor,
        backend=backend,
        volume=row["volume"],
        volume_id=row["volume_id"],
        snapshot=row["snapshot"],
        policy=named(row["targets"], "policy"),
        job_id=row["id"],
        reason=reason,
        data=data,
        objects=_without_column(
            [Target(*one) for one in row["targets"] or ()], backend, row["params"]
        ),
    )


def _without_column(
    others: Sequence[Target], backend: str, params: Mapping[str, Any]
) -> Sequence[Named]:
    """What a job is about and events have no column for, as far as it is known by now."""
    if not others:
        return ()
    source, _ = source_of(backend, params) or (backend, None)
    return [
        Named(
            role=one.role,
            kind=one.kind,
            name=one.name or "",
            id=one.id,
            backend=source if one.role == TargetRole.SOURCE else backend,
        )
        for one in others
        if one.kind != "policy" and one.id is not None
    ]


def record(transaction: Transaction, happened: Sequence[Event], at: datetime) -> None:
    """Write events, in this order, in the transaction of what they tell."""
    if happened:
        transaction.ask(recorded(happened, at))


def recorded(happened: Sequence[Event], at: datetime) -> Asked[Any]:
    """What `record` does, to be done by `ask`; there is at least one event."""
    rows: list[dict[str, Any]] = [
        {
            "seq": seq,
            "at": at,
            "kind": event.kind,
            "backend": event.backend,
            "volume": event.volume,
            "volume_id": event.volume_id,
            "snapshot": event.snapshot,
            "policy": event.policy,
            "job_id": event.job_id,
            "actor": event.actor,
            "reason": event.reason,
            "data": event.data or None,
            "objects": [one._asdict() for one in event.objects] if event.objects else None,
        }
        for seq, event in enumerate(happened, start=1)
    ]
    return inserted_family(_COMMIT, {"events": len(rows)}, events, rows)


def number_committed(transaction: Transaction) -> int:
    """Give committed events their numbers, without gaps; returns how many got one.

    Only one transaction at a time does this, so whatever it sees gets lower numbers than
    what commits later: a reader that follows the numbers misses nothing.
    """
    if not transaction.try_lock(_SEQUENCER_LOCK):
        return 0
    waiting = transaction.execute(
        select(event_commits.c.id, event_commits.c.events)
        .where(event_commits.c.base.is_(None))
        .order_by(event_commits.c.id)
        .limit(NUMBERED_AT_ONCE)
    ).all()
    if not waiting:
        return 0
    latest = transaction.execute(_LATEST).first()
    first = last = _archived_up_to(transaction) if latest is None else int(latest.number)
    highest = 0 if latest is None else int(latest.highest)
    numbered: list[dict[str, int | None]] = []
    for commit in waiting:
        behind = highest - commit.id if highest > commit.id else None
        numbered.append({"id": commit.id, "base": last, "behind": behind})
        last += commit.events
        highest = max(highest, commit.id)
    update_rows(transaction, event_commits, ["id"], numbered)
    transaction.reach("events.before_commit")
    return last - first


def latest_number(transaction: Transaction) -> int:
    """The highest number given so far; 0 before the first."""
    latest = transaction.execute(_LATEST).first()
    return _archived_up_to(transaction) if latest is None else int(latest.number)


def as_of(transaction: Transaction) -> tuple[datetime, int]:
    """When it is by the database's clock, and the number of the latest event: what is read with
    them in one transaction is of then."""
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    return now, latest_number(transaction)


def _archived_up_to(transaction: Transaction) -> int:
    """The number of the last event that has left the database; 0 if none has."""
    query = (
        select(event_archives.c.last)
        .where(event_archives.c.base >= 0)
        .order_by(event_archives.c.base.desc())
        .limit(1)
    )
    return int(transaction.execute(query).scalar() or 0)


def read_after(
    transaction: Transaction, after: int, limit: int, filters: Mapping[str, Any] | None = None
) -> Sequence[Row[Any]]:
    """Numbered events above ``after``, in order. Raises `Gone` if some were archived.

    Rows have the columns of `events`, and their ``number``.
    """
    rows = pages.after(transaction, after, limit, filters or {})
    oldest = before_all(transaction)
    if oldest > after:
        raise Gone(
            f"events up to {oldest} have been archived: begin after {oldest}",
            oldest=oldest + 1,
        )
    return rows


def before_all(transaction: Transaction) -> int:
    """The number after which the events begin that have not been archived."""
    oldest = transaction.execute(select(func.min(event_commits.c.base))).scalar()
    return _archived_up_to(transaction) if oldest is None else int(oldest)


def read_feed(
    transaction: Transaction,
    after: int,
    limit: int,
    filters: Mapping[str, Any],
    epoch: int | None = None,
) -> tuple[int, Sequence[Row[Any]]]:
    """The same for readers who come again: the epoch that numbers are of now, and the events.

    Raises `EpochChanged` if ``after`` is a number of another epoch than that, as ``epoch`` says
    or as no event of this one has it: what has that number is, or will be, something else.
    """
    lives = all_of(transaction)
    present = lives[-1]
    if epoch is not None and epoch != present.epoch:
        common = min(life.last_event for life in lives if life is present or life.epoch > epoch)
        raise _changed(
            f"event numbers of epoch {epoch} mean nothing in the present epoch {present.epoch}: "
            "the database was restored or taken over",
            present.epoch,
            min(after, common),
        )
    rows = read_after(transaction, after, limit, filters)
    if not rows and after > (latest := latest_number(transaction)):
        raise _changed(
            f"no event has the number {after}, the newest is {latest}: it is of a life of the "
            "database that was lost",
            present.epoch,
            min(latest, present.last_event),
        )
    return present.epoch, rows


def read_newest(
    transaction: Transaction,
    limit: int,
    filters: Mapping[str, Any],
    *,
    before: int | None = None,
) -> tuple[int, Sequence[Row[Any]], int]:
    """The present epoch, the newest events in order, and the number after which to go on.

    ``before``: of those with lower numbers than this.
    """
    # Read first, so that nothing that comes meanwhile is passed over.
    latest = latest_number(transaction)
    rows = pages.newest(transaction, limit, filters, before)
    return all_of(transaction)[-1].epoch, rows, rows[-1].number if rows else latest


def _changed(why: str, epoch: int, after: int) -> EpochChanged:
    return EpochChanged(
        f"{why}. Read again with epoch={epoch} and after={after}; what follows there replaces what "
        "was read above that number",
        epoch=epoch,
        after=after,
    )


def of_job(
    transaction: Transaction, job_id: int, after: tuple[int, int], limit: int
) -> Sequence[Row[Any]]:
    """The events of a job after a place (commit, seq), in order, numbered or not."""
    return transaction.execute(
        select(events, pages.NUMBER.label("number"))
        .join(event_commits, event_commits.c.id == events.c.commit_id)
        .where(
            events.c.job_id == job_id,
            tuple_(events.c.commit_id, events.c.seq) > tuple_(*after),
        )
        .order_by(events.c.commit_id, events.c.seq)
        .limit(limit)
    ).all()
