"""What the engine was to do by itself and may not: told in the history, once for each reason."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, bindparam, select, text, update

from orchestrator.domain.actors import ENGINE
from orchestrator.domain.states import EventKind
from orchestrator.history.events import Event, record
from orchestrator.store.columns import db_now
from orchestrator.store.tables import UNUSUAL_EVENT, backends, events, findings, jobs
from orchestrator.store.transaction import Transaction

#: How a finding's detail names why its repair by a rule is refused.
DETAIL = "repair_refused"
#: The same refusal is recorded again after this, by whichever scheduler.
_AGAIN = timedelta(hours=1)
#: What tells refusals apart, beside their data.
_ABOUT = ("kind", "backend", "volume", "policy", "job_id")
#: Events that are read at a time.
_PAGE = 100


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
    """Record a refusal, unless the same one was recorded lately."""
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    if not any(_is_same(event, one) for one in _recorded_since(transaction, event, now - _AGAIN)):
        record(transaction, [event], now)


def _is_same(event: Event, recorded: Any) -> bool:
    return all(getattr(event, name) == getattr(recorded, name) for name in (*_ABOUT, "data"))


def _recorded_since(transaction: Transaction, event: Event, since: datetime) -> Iterator[Any]:
    """Events since then, newest first: of the same volume or job; of the same kind, if it has
    neither."""
    if event.volume is not None:
        nearby: tuple[Any, ...] = events.c.backend == event.backend, events.c.volume == event.volume
    elif event.job_id is not None:
        nearby = (events.c.job_id == event.job_id,)
    else:
        kind: BindParameter[str] = bindparam(None, event.kind, literal_execute=True, unique=True)
        # Said twice: the second is what the index is made with.
        nearby = events.c.kind == kind, text(UNUSUAL_EVENT)
    with transaction.execute(
        select(events)
        .where(*nearby)
        .order_by(events.c.commit_id.desc(), events.c.seq.desc())
        .execution_options(yield_per=_PAGE)
    ) as newest_first:
        for one in newest_first:
            if one.at <= since:
                return
            yield one
