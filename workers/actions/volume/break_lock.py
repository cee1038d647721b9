"""Break the lock on a volume."""

from __future__ import annotations

from sqlalchemy import select

from orchestrator.actions.volume.break_lock import BREAK_LOCK
from orchestrator.domain.errors import Conflict
from orchestrator.domain.states import EventKind
from orchestrator.history.events import Event
from orchestrator.resources.volume.changes import LockGone
from orchestrator.store.tables import locks
from workers.execution.handler import Handler
from workers.execution.work import Done, Work, recorded_volume


def break_lock(work: Work) -> Done:
    """Break the lock on a volume; nothing if there is none."""
    record = recorded_volume(work)
    with work.database.read() as transaction:
        row = transaction.execute(select(locks).where(locks.c.volume_id == record.id)).first()
    if row is None:
        return Done(result={"owner": None})
    owner, params = row.owner, work.intent.params
    meant = params.get("owner", owner), params.get("taken_at", row.taken_at.isoformat())
    if meant != (owner, row.taken_at.isoformat()):
        raise Conflict(
            f"the lock on volume {record.name!r} is another one: {owner} has it since "
            f"{row.taken_at:%FT%TZ}"
        )
    event = Event(
        kind=EventKind.LOCK_BROKEN,
        actor=work.claim.submitted_by,
        backend=work.intent.backend,
        volume=record.name,
        volume_id=record.id,
        job_id=work.job_id,
        reason=work.intent.reason,
        data={"before": {"owner": owner}, "after": None},
    )
    return Done(
        result={"owner": owner},
        changes=[LockGone(record.id, owner, row.taken_at, event)],
        before={"owner": owner},
        after={"owner": None},
    )


HANDLERS = (Handler(BREAK_LOCK, break_lock),)
