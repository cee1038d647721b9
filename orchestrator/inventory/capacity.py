"""Capacity by days: how full each backend was at the last look of each day."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, func, select

from orchestrator.domain.states import SnapshotState, VolumeState
from orchestrator.inventory.promises import promised
from orchestrator.store.columns import UtcDateTime, db_now
from orchestrator.store.conditions import live
from orchestrator.store.tables import backends, capacity_days, snapshots, volumes
from orchestrator.store.transaction import Transaction

#: What is there, though perhaps hidden or in error; as `volume_versions` has it.
_LIVE = (live(volumes), volumes.c.state != VolumeState.PENDING)
_COUNTED = ("total_bytes", "free_bytes", "promised_bytes", "volumes", "volume_bytes", "used_bytes")


def record_day(transaction: Transaction) -> int:
    """Keep how full each configured backend is now as what is known of today (UTC).

    The last look of a day holds, whichever scheduler has it. Returns how many backends it were.
    """
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    transaction.read_many()
    columns = ["backend_id", "day", "at", *_COUNTED, "snapshots"]
    statement = transaction.insert(capacity_days).from_select(columns, _looked(now))
    newer = {name: statement.excluded[name] for name in columns[2:]}
    kept = statement.on_conflict_do_update(
        index_elements=["backend_id", "day"],
        set_=newer,
        where=capacity_days.c.at <= statement.excluded.at,
    )
    return transaction.execute(kept, execution_options={"preserve_rowcount": True}).rowcount


def present(transaction: Transaction, now: datetime) -> dict[str, dict[str, Any]]:
    """How full each configured backend is now, by name, as `record_day` would keep it."""
    looked = _looked(now).add_columns(backends.c.name)
    names = ("backend_id", "day", "at", *_COUNTED, "snapshots", "backend")
    rows = [dict(zip(names, row, strict=True)) for row in transaction.execute(looked)]
    return {
        row.pop("backend"): {name: value for name, value in row.items() if name != "backend_id"}
        for row in rows
    }


def _looked(now: datetime) -> Any:
    held = (
        select(
            volumes.c.backend_id,
            func.count().label("volumes"),
            func.sum(volumes.c.size_bytes).label("volume_bytes"),
            func.sum(volumes.c.used_bytes).label("used_bytes"),
        )
        .where(*_LIVE)
        .group_by(volumes.c.backend_id)
        .subquery()
    )
    shot = (
        select(volumes.c.backend_id, func.count().label("snapshots"))
        .join(snapshots, snapshots.c.volume_id == volumes.c.id)
        .where(
            *_LIVE,
            live(snapshots),
            snapshots.c.state != SnapshotState.PENDING,
        )
        .group_by(volumes.c.backend_id)
        .subquery()
    )
    return (
        select(
            backends.c.id,
            bindparam("day", now.date(), type_=capacity_days.c.day.type),
            bindparam("at", now, type_=UtcDateTime),
            backends.c.total_bytes,
            backends.c.free_bytes,
            promised(),
            func.coalesce(held.c.volumes, 0),
            func.coalesce(held.c.volume_bytes, 0),
            func.coalesce(held.c.used_bytes, 0),
            func.coalesce(shot.c.snapshots, 0),
        )
        .outerjoin(held, held.c.backend_id == backends.c.id)
        .outerjoin(shot, shot.c.backend_id == backends.c.id)
        .where(backends.c.configured)
    )
