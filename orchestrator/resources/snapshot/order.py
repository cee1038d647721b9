"""Which snapshot of a volume is newer: what the storage says, never an id, a name or a clock.

Only where the storage does not tell is it taken from the jobs that made them; what is being made
is newer than all that is there.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, FromClause, case, exists, func, select, tuple_

from orchestrator.domain.states import SnapshotState
from orchestrator.store.tables import snapshots


def oldest_first(table: FromClause = snapshots) -> tuple[ColumnElement[Any], ...]:
    """What snapshots of a volume are ordered by."""
    of = table.c
    return (
        case((of.state == SnapshotState.PENDING, 1), else_=0),
        case((of.position.is_(None), 1), else_=0),
        func.coalesce(of.position, 0),
        func.coalesce(of.created_by_job, 0),
        of.created_at,
        of.id,
    )


def newer_than(snapshot_id: str) -> ColumnElement[bool]:
    """Whether a snapshot comes after this one of its volume, if there ever was that one."""
    last = snapshots.alias("last")
    comes_after = tuple_(*oldest_first()) > tuple_(*oldest_first(last))
    return exists(select(last.c.id).where(last.c.id == snapshot_id, comes_after))
