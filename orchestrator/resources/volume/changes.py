"""Changes to the record of volumes, of their attachments and of their locks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, or_, select, update

from orchestrator.domain.states import SnapshotState, VolumeState
from orchestrator.history.events import Event, record
from orchestrator.resources.changes import Set, Written
from orchestrator.store.bulk import among, insert_rows
from orchestrator.store.conditions import live
from orchestrator.store.tables import attachments, locks, snapshots, volumes
from orchestrator.store.transaction import Transaction

#: What is kept of a volume that was forgotten, not removed.
FORGOTTEN = "forgotten"


def set_volume(volume_id: str, **values: Any) -> Set:
    """Set columns of a volume."""
    return Set(volumes, volume_id, values)


def settings_columns(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a volume's row says of its settings: all of them, and those it is found by."""
    return {
        "settings": dict(settings),
        "junction_path": settings.get("junction_path"),
        "autosize": bool(settings.get("autosize_enabled")),
    }


def seen_again(now: datetime) -> dict[str, Any]:
    """The columns of a volume that the engine checks again, from now on."""
    return {"look_again_at": now, "looks": 0}


@dataclass(frozen=True)
class Adopted(Written):
    """A volume that was on the storage is in the inventory from now on, with its snapshots.

    Both are columns of their tables; times are added.
    """

    volume: dict[str, Any]
    snapshots: list[dict[str, Any]]

    @classmethod
    def write(cls, transaction: Transaction, changes: Sequence[Adopted], now: datetime) -> None:
        """Insert the rows."""
        for one in changes:
            times = {"created_at": now, "changed_at": now}
            insert_rows(transaction, volumes, [{**one.volume, **times}])
            kept = [{**row, "created_at": now} for row in one.snapshots]
            insert_rows(transaction, snapshots, kept)

    def room(self) -> Mapping[int, int]:
        """The room that it takes."""
        return {self.volume["backend_id"]: self.volume["size_bytes"]}


@dataclass(frozen=True)
class VolumeGone(Written):
    """The volume no longer exists; its lock, attachments and snapshots go with it.

    ``forgotten``: its storage was left where it is.
    """

    volume_id: str
    forgotten: bool = False

    @classmethod
    def write(cls, transaction: Transaction, changes: Sequence[VolumeGone], now: datetime) -> None:
        """Remove the rows of what is on them, and mark their own."""
        ids = [change.volume_id for change in changes]
        for table in (locks, attachments):
            transaction.execute(delete(table).where(among(table.c.volume_id, ids)))
        transaction.execute(
            update(snapshots)
            .where(among(snapshots.c.volume_id, ids), live(snapshots))
            .values(state=SnapshotState.REMOVED, removed_at=now)
        )
        transaction.execute(
            update(volumes)
            .where(among(volumes.c.id, ids))
            .values(state=VolumeState.REMOVED, removed_at=now, changed_at=now)
        )
        if forgotten := [change.volume_id for change in changes if change.forgotten]:
            transaction.execute(
                update(volumes).where(among(volumes.c.id, forgotten)).values(detail=FORGOTTEN)
            )

    def resized(self) -> Mapping[str, dict[str, Any]]:
        """It gives its room back."""
        return {self.volume_id: {"state": VolumeState.REMOVED}}


@dataclass(frozen=True)
class LockGone(Written):
    """The lock that this host has on the volume is broken, as the event tells."""

    volume_id: str
    owner: str
    taken_at: datetime
    told: Event

    @classmethod
    def write(cls, transaction: Transaction, changes: Sequence[LockGone], now: datetime) -> None:
        """Delete the row, if it is that lock still."""
        for change in changes:
            broken = transaction.execute(
                delete(locks).where(
                    locks.c.volume_id == change.volume_id,
                    locks.c.owner == change.owner,
                    locks.c.taken_at == change.taken_at,
                )
            )
            record(transaction, [change.told] * broken.rowcount, now)


@dataclass(frozen=True)
class Attached(Written):
    """The volume is attached to the host, as verified there."""

    volume_id: str
    host: str
    values: dict[str, Any]

    @classmethod
    def write(cls, transaction: Transaction, changes: Sequence[Attached], now: datetime) -> None:
        """Update the attachments, or insert them."""
        for change in changes:
            written = transaction.execute(
                update(attachments).where(_there(change)).values(**change.values)
            )
            if written.rowcount == 0:
                place = {"volume_id": change.volume_id, "host": change.host, "attached_at": now}
                insert_rows(transaction, attachments, [{**place, **change.values}])


@dataclass(frozen=True)
class MayBeAttached(Written):
    """Nobody knows whether an attach to the host took effect: until it is known, it counts.

    What is recorded of an attachment there already stays as it is.
    """

    volume_id: str
    host: str
    read_only: bool

    @classmethod
    def write(
        cls, transaction: Transaction, changes: Sequence[MayBeAttached], now: datetime
    ) -> None:
        """Insert the attachments that are not recorded."""
        for change in changes:
            found = transaction.execute(select(attachments.c.host).where(_there(change)))
            if found.first() is None:
                values = {"uris": [], "read_only": change.read_only}
                Attached.write(transaction, [Attached(change.volume_id, change.host, values)], now)


@dataclass(frozen=True)
class Detached(Written):
    """The volume is no longer attached to the host."""

    volume_id: str
    host: str

    @classmethod
    def write(cls, transaction: Transaction, changes: Sequence[Detached], now: datetime) -> None:
        """Delete the attachments."""
        transaction.execute(delete(attachments).where(or_(*map(_there, changes))))


@dataclass(frozen=True)
class Opened(Written):
    """How the host uses its attachment; None: not at all."""

    volume_id: str
    host: str
    opening: str | None

    @classmethod
    def write(cls, transaction: Transaction, changes: Sequence[Opened], now: datetime) -> None:
        """Update the attachments."""
        for change in changes:
            transaction.execute(
                update(attachments).where(_there(change)).values(opening=change.opening)
            )


def _there(change: Attached | MayBeAttached | Detached | Opened) -> ColumnElement[bool]:
    return and_(attachments.c.volume_id == change.volume_id, attachments.c.host == change.host)
