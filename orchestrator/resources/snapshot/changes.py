"""Changes to the record of snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import update

from orchestrator.domain.states import EventKind, SnapshotState
from orchestrator.resources.changes import Set, Written
from orchestrator.store.bulk import among, insert_rows
from orchestrator.store.tables import snapshots
from orchestrator.store.transaction import Transaction


def set_snapshot(snapshot_id: str, **values: Any) -> Set:
    """Set columns of a snapshot."""
    return Set(snapshots, snapshot_id, values)


@dataclass(frozen=True)
class SnapshotGone(Written):
    """The snapshot no longer exists.

    ``name``: of one that the job itself is not about, so that history tells it by itself.
    """

    snapshot_id: str
    name: str | None = None

    @classmethod
    def write(
        cls, transaction: Transaction, changes: Sequence[SnapshotGone], now: datetime
    ) -> None:
        """Mark the rows."""
        ids = [change.snapshot_id for change in changes]
        transaction.execute(
            update(snapshots)
            .where(among(snapshots.c.id, ids))
            .values(state=SnapshotState.REMOVED, removed_at=now)
        )

    def event(self) -> tuple[EventKind, dict[str, Any]] | None:
        """That it was struck from the record."""
        return None if self.name is None else (EventKind.SNAPSHOT_STRUCK, {"snapshot": self.name})


@dataclass(frozen=True)
class SnapshotMissing(Written):
    """A recorded snapshot was not found, and may come back: its record stays, in error."""

    snapshot_id: str
    name: str

    @classmethod
    def write(
        cls, transaction: Transaction, changes: Sequence[SnapshotMissing], now: datetime
    ) -> None:
        """Mark the rows."""
        ids = [change.snapshot_id for change in changes]
        transaction.execute(
            update(snapshots).where(among(snapshots.c.id, ids)).values(state=SnapshotState.ERROR)
        )

    def event(self) -> tuple[EventKind, dict[str, Any]] | None:
        """That it was not found."""
        return EventKind.SNAPSHOT_MISSING, {"snapshot": self.name}


@dataclass(frozen=True)
class SnapshotFound(Written):
    """A snapshot that was on the storage is in the inventory from now on.

    The columns of `snapshots`; its time is added.
    """

    values: dict[str, Any]

    @classmethod
    def write(
        cls, transaction: Transaction, changes: Sequence[SnapshotFound], now: datetime
    ) -> None:
        """Insert the rows."""
        rows = [{**change.values, "created_at": now} for change in changes]
        insert_rows(transaction, snapshots, rows)
