"""Whether an image was written to while nobody had it attached and no job worked on it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, select

from orchestrator.domain.actions import ACTIONS
from orchestrator.jobs.outlook import VolumeOutlook
from orchestrator.store.columns import db_now
from orchestrator.store.tables import events

#: Clocks of file servers differ, and what was written arrives later: less tells of nothing.
_LATER = timedelta(minutes=5)

#: What history tells of whatever may have changed an image, or has looked at a change and
#: recorded it.
_CHANGING = sorted(
    {
        *("job.failed", "job.canceled"),
        *(name for name, action in ACTIONS.items() if action.lanes and action.kind != "backend"),
    }
    - {"volume.verify"}
)


@dataclass(frozen=True)
class Written:
    """When an image was written, and when the last that is known to have changed it had ended."""

    at: datetime
    last: datetime


def written_behind(
    connection: Connection, backend: str, record: VolumeOutlook, written_at: float
) -> Written | None:
    """When it was written without anybody's knowledge; None: it was not, or that is not known."""
    last: datetime | None = connection.execute(
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
    if last is None:
        return None
    # Both clocks, the host's and the database's, are read now.
    now: datetime = connection.execute(select(db_now())).scalar_one()
    at = now - timedelta(seconds=time.time() - written_at)
    return Written(at.astimezone(UTC), last) if at > last + _LATER else None
