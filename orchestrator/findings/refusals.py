"""What the engine was to do by itself and may not: told in the history, once for each reason."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import select, update

from orchestrator.domain.actors import ENGINE
from orchestrator.domain.states import EventKind
from orchestrator.history.events import Event, record
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, events, findings, jobs
from orchestrator.store.transaction import Transaction

#: How a finding's detail names why its repair by a rule is refused.
DETAIL = "repair_refused"
#: The same refusal is recorded again after this, by whichever scheduler.
_AGAIN = timedelta(hours=1)


def note_look(transaction: Transaction, key: tuple[str, str | None, str | None], why: str) -> None:
    """A look at what is in error is refused; ``key``: its backend, volume and export policy."""
    backend, volume, policy = key
    event = Event(
        kind=EventKind.LOOK_REFUSED,
        actor=ENGINE,
        backend=backend,
        volume=volume,
        policy=policy,
        data={"why": why},
    )
    _note(transaction, event)


def note_repair(transaction: Transaction, finding_id: int, why: str) -> None:
    """The repair of a finding by a rule is refused: its detail has why, too."""
    query = select(findings, backends.c.name.label("backend")).join(
        backends, backends.c.id == findings.c.backend_id
    )
    row = transaction.execute(query.where(findings.c.id == finding_id)).one()
    if row.detail.get(DETAIL) == why:
        return
    detail = {**row.detail, DETAIL: why}
    transaction.execute(update(findings).where(findings.c.id == finding_id).values(detail=detail))
    _note(
        transaction,
        Event(
            kind=EventKind.REPAIR_REFUSED,
            actor=ENGINE,
            backend=row.backend,
            volume=row.volume,
            volume_id=row.volume_id,
            snapshot=row.snapshot,
            policy=row.policy,
            data={"finding": finding_id, "kind": row.kind, "why": why},
        ),
    )


def note_stuck(transaction: Transaction, job_id: int, why: str) -> None:
    """The database refuses that a job is taken up by another worker, or ended."""
    query = select(jobs.c.volume, jobs.c.volume_id, backends.c.name).join(
        backends, backends.c.id == jobs.c.backend_id
    )
    row = transaction.execute(query.where(jobs.c.id == job_id)).one()
    event = Event(
        kind=EventKind.JOB_STUCK,
        actor=ENGINE,
        backend=row.name,
        volume=row.volume,
        volume_id=row.volume_id,
        job_id=job_id,
        data={"why": why},
    )
    _note(transaction, event)


def _note(transaction: Transaction, event: Event) -> None:
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    same = select(events.c.data).where(
        events.c.kind == event.kind,
        events.c.at > now - _AGAIN,
        *(
            events.c[name].is_not_distinct_from(getattr(event, name))
            for name in ("backend", "volume", "policy", "job_id")
        ),
    )
    if event.data not in transaction.execute(same).scalars().all():
        record(transaction, [event], now)
