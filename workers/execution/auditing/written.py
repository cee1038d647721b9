"""Whether an image was written to while nobody had it attached and no job worked on it.

Nobody ever writes to that of a snapshot.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, select

from orchestrator.actions.registry import ACTIONS
from orchestrator.actions.snapshot.create import CREATE
from orchestrator.actions.volume.adopt import ADOPT
from orchestrator.actions.volume.reconcile import RECONCILE
from orchestrator.actions.volume.rename import RENAME
from orchestrator.actions.volume.verify import VERIFY
from orchestrator.domain.outlook import VolumeOutlook
from orchestrator.domain.states import EventKind
from orchestrator.store.columns import db_now
from orchestrator.store.tables import events
from orchestrator.store.transaction import Transaction
from workers.backends.base.facts import SnapshotFacts

#: Clocks of file servers differ, and what was written arrives later: less tells of nothing.
_LATER = timedelta(minutes=5)

#: What history tells of whatever may have changed an image, or has looked at a change and
#: recorded it.
_CHANGING = sorted(
    {
        *(EventKind.JOB_FAILED, EventKind.JOB_CANCELED),
        *(name for name, action in ACTIONS.items() if action.lanes and action.kind != "backend"),
    }
    - {VERIFY.name}
)

#: What tells when a snapshot was taken, or that its contents are known as they are.
_TAKEN = CREATE.name
_KNOWN = (ADOPT.name, RECONCILE.name, RENAME.name)


@dataclass(frozen=True)
class Written:
    """When an image was written, and when the last that is known to have changed it had ended."""

    at: datetime
    last: datetime


def written_behind(
    transaction: Transaction, backend: str, record: VolumeOutlook, written_at: float
) -> Written | None:
    """When it was written without anybody's knowledge; None: it was not, or that is not known."""
    last: datetime | None = transaction.execute(
        select(events.c.at)
        .where(
            events.c.backend == backend,
            events.c.volume == record.name,
            events.c.volume_id == record.id,
            events.c.kind.in_(_CHANGING),
        )
        .order_by(events.c.commit_id.desc())
        .limit(1)
    ).scalar()
    return None if last is None else _behind(transaction, last, written_at)


def snapshots_written(
    transaction: Transaction,
    backend: str,
    record: VolumeOutlook,
    found: Sequence[SnapshotFacts],
) -> Iterator[tuple[str, Written]]:
    """The recorded snapshots that were written to since they were taken, by name."""
    names = {one.id: name for name, one in record.snapshots.items()}
    written = [
        (names[one.id], one.written_at)
        for one in found
        if one.id in names and one.written_at is not None
    ]
    if not written:
        return
    rows = transaction.execute(
        select(events.c.kind, events.c.snapshot, func.max(events.c.at).label("at"))
        .where(
            events.c.backend == backend,
            events.c.volume == record.name,
            events.c.volume_id == record.id,
            events.c.kind.in_((_TAKEN, *_KNOWN)),
        )
        .group_by(events.c.kind, events.c.snapshot)
    ).all()
    for name, at in written:
        known = [one.at for one in rows if one.kind != _TAKEN or one.snapshot == name]
        behind = _behind(transaction, max(known), at) if known else None
        if behind is not None:
            yield name, behind


def _behind(transaction: Transaction, last: datetime, written_at: float) -> Written | None:
    # Both clocks, the host's and the database's, are read now.
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    at = now - timedelta(seconds=time.time() - written_at)
    return Written(at.astimezone(UTC), last) if at > last + _LATER else None
