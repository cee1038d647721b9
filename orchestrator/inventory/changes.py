"""Changes to the inventory, as values: what a finished job leaves in the database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Table, and_, delete, or_, select, update

from orchestrator.domain.states import PROMISED_STATES, PolicyState, SnapshotState, VolumeState
from orchestrator.history.events import Event, record
from orchestrator.inventory import promises
from orchestrator.store.asking import Question, one_of
from orchestrator.store.bulk import among, insert_rows, updated
from orchestrator.store.tables import (
    attachments,
    backends,
    locks,
    policies,
    snapshots,
    volumes,
)
from orchestrator.store.transaction import Asked, Rows, Transaction


@dataclass(frozen=True)
class Set:
    """Set columns of the row with this id in `volumes`, `snapshots`, `policies` or `backends`."""

    table: Table
    id: str | int
    values: dict[str, Any]


@dataclass(frozen=True)
class Adopted:
    """A volume that was on the storage is in the inventory from now on, with its snapshots.

    Both are columns of their tables; times are added.
    """

    volume: dict[str, Any]
    snapshots: list[dict[str, Any]]


@dataclass(frozen=True)
class VolumeGone:
    """The volume no longer exists; its lock, attachments and snapshots go with it.

    ``forgotten``: its storage was left where it is.
    """

    volume_id: str
    forgotten: bool = False


@dataclass(frozen=True)
class SnapshotFound:
    """A snapshot that was on the storage is in the inventory from now on.

    The columns of `snapshots`; its time is added.
    """

    values: dict[str, Any]


@dataclass(frozen=True)
class LockGone:
    """The lock that this host has on the volume is broken, as the event tells."""

    volume_id: str
    owner: str
    taken_at: datetime
    event: Event


@dataclass(frozen=True)
class Recounted:
    """What the backend has promised is counted anew, from its volumes and unfinished jobs."""

    backend_id: int


class Beside(ABC):
    """A change to tables beside the inventory, which writes itself."""

    @abstractmethod
    def write(self, transaction: Transaction, now: datetime) -> None:
        """Write it, in the transaction of the outcome."""


@dataclass(frozen=True)
class SnapshotGone:
    """The snapshot no longer exists.

    ``name``: of one that the job itself is not about, so that history tells it by itself.
    """

    snapshot_id: str
    name: str | None = None


@dataclass(frozen=True)
class SnapshotMissing:
    """A recorded snapshot was not found, and may come back: its record stays, in error."""

    snapshot_id: str
    name: str


@dataclass(frozen=True)
class PolicyGone:
    """The export policy no longer exists."""

    policy_id: str


@dataclass(frozen=True)
class Attached:
    """The volume is attached to the host, as verified there."""

    volume_id: str
    host: str
    values: dict[str, Any]


@dataclass(frozen=True)
class MayBeAttached:
    """Nobody knows whether an attach to the host took effect: until it is known, it counts.

    What is recorded of an attachment there already stays as it is.
    """

    volume_id: str
    host: str
    read_only: bool


@dataclass(frozen=True)
class Detached:
    """The volume is no longer attached to the host."""

    volume_id: str
    host: str


@dataclass(frozen=True)
class Opened:
    """How the host uses its attachment; None: not at all."""

    volume_id: str
    host: str
    opening: str | None


_Use = Attached | MayBeAttached | Detached | Opened | LockGone
Change = (
    Set
    | Adopted
    | VolumeGone
    | SnapshotGone
    | SnapshotMissing
    | SnapshotFound
    | PolicyGone
    | _Use
    | Recounted
    | Beside
)

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


def set_snapshot(snapshot_id: str, **values: Any) -> Set:
    """Set columns of a snapshot."""
    return Set(snapshots, snapshot_id, values)


def set_policy(policy_id: str, **values: Any) -> Set:
    """Set columns of an export policy."""
    return Set(policies, policy_id, values)


def set_backend(backend_id: int, **values: Any) -> Set:
    """Set columns of a backend."""
    return Set(backends, backend_id, values)


def _key(table: Table) -> str:
    """The column that holds the ids of `Set`."""
    return "uid" if table is policies else "id"


#: Tables whose rows tell when they were changed.
_STAMPED = (volumes, policies)

_BEFORE = Question(
    lambda d: select(
        volumes.c.id, volumes.c.backend_id, volumes.c.state, volumes.c.size_bytes
    ).where(one_of(d, volumes.c.id, "ids"))
)


@dataclass
class Changes:
    """Changes merged into what few statements can write; of two that set one column of a row
    the last holds."""

    merged: dict[tuple[Table, str | int], dict[str, Any]]
    adopted: list[Adopted]
    gone_volumes: list[str]
    forgotten: list[str]
    gone_snapshots: list[str]
    found_snapshots: list[dict[str, Any]]
    gone_policies: list[str]
    uses: list[_Use]
    recounted: list[int]
    beside: list[Beside]

    def volumes_before(self) -> list[Asked]:
        """Ask for the volumes whose size or state changes, as they are; for `room`."""
        ids = self._resized()
        return [_BEFORE(ids=list(ids))] if ids else []

    def room(self, before: Rows) -> Counter[int]:
        """By how much these change what each backend (id) has promised.

        The caller gives that to `promises.add` as the last thing it does.
        """
        resized = self._resized()
        room: Counter[int] = Counter()
        for row in before:
            new = resized[row["id"]]
            if new.get("state", row["state"]) in PROMISED_STATES:
                room[row["backend_id"]] += int(new.get("size_bytes") or row["size_bytes"])
            if row["state"] in PROMISED_STATES:
                room[row["backend_id"]] -= row["size_bytes"]
        for one in self.adopted:
            room[one.volume["backend_id"]] += one.volume["size_bytes"]
        return room

    def rows_set(self, now: datetime) -> list[Asked]:
        """Set columns: one statement for all rows of a table that set the same ones."""
        alike: dict[tuple[Table, tuple[str, ...]], list[dict[str, Any]]] = defaultdict(list)
        for (table, id_), values in self.merged.items():
            stamped = {**values, "changed_at": now} if table in _STAMPED else values
            alike[table, tuple(sorted(stamped))].append({_key(table): id_, **stamped})
        return [updated(table, [_key(table)], rows) for (table, _), rows in alike.items()]

    def write_others(self, transaction: Transaction, now: datetime) -> None:
        """Write what `rows_set` does not."""
        for one in self.adopted:
            times = {"created_at": now, "changed_at": now}
            insert_rows(transaction, volumes, [{**one.volume, **times}])
            kept = [{**row, "created_at": now} for row in one.snapshots]
            insert_rows(transaction, snapshots, kept)
        if self.gone_volumes:
            _remove_volumes(transaction, self.gone_volumes, now)
        if self.gone_snapshots:
            transaction.execute(
                update(snapshots)
                .where(among(transaction, snapshots.c.id, self.gone_snapshots))
                .values(state=SnapshotState.REMOVED, removed_at=now)
            )
        if self.gone_policies:
            transaction.execute(
                update(policies)
                .where(among(transaction, policies.c.uid, self.gone_policies))
                .values(state=PolicyState.REMOVED, removed_at=now, changed_at=now)
            )
        if self.forgotten:
            transaction.execute(
                update(volumes)
                .where(among(transaction, volumes.c.id, self.forgotten))
                .values(detail=FORGOTTEN)
            )
        if self.found_snapshots:
            kept = [{**row, "created_at": now} for row in self.found_snapshots]
            insert_rows(transaction, snapshots, kept)
        if self.uses:
            _use(transaction, self.uses, now)
        for other in self.beside:
            other.write(transaction, now)
        for backend_id in self.recounted:
            promises.recount(transaction, backend_id)

    def _resized(self) -> dict[str | int, dict[str, Any]]:
        found: dict[str | int, dict[str, Any]] = {
            id_: values
            for (table, id_), values in self.merged.items()
            if table is volumes and ("size_bytes" in values or "state" in values)
        }
        return found | {id_: {"state": VolumeState.REMOVED} for id_ in self.gone_volumes}


def merge(changes: Iterable[Change]) -> Changes:
    """Merge changes, in their order."""
    merged = Changes(defaultdict(dict), [], [], [], [], [], [], [], [], [])
    for change in changes:
        match change:
            case Set(table, id_, values):
                merged.merged[table, id_].update(values)
            case Adopted():
                merged.adopted.append(change)
            case VolumeGone(volume_id, forgotten):
                merged.gone_volumes.append(volume_id)
                if forgotten:
                    merged.forgotten.append(volume_id)
            case SnapshotGone(snapshot_id):
                merged.gone_snapshots.append(snapshot_id)
            case SnapshotMissing(snapshot_id):
                merged.merged[snapshots, snapshot_id].update(state=SnapshotState.ERROR)
            case SnapshotFound(found):
                merged.found_snapshots.append(found)
            case PolicyGone(policy_id):
                merged.gone_policies.append(policy_id)
            case Recounted(backend_id):
                merged.recounted.append(backend_id)
            case Beside():
                merged.beside.append(change)
            case _:
                merged.uses.append(change)
    return merged


def apply(transaction: Transaction, changes: Iterable[Change], now: datetime) -> Counter[int]:
    """Write changes; by how much they change what each backend (id) has promised."""
    merged = merge(changes)
    before = transaction.ask(*merged.volumes_before())
    transaction.ask(*merged.rows_set(now))
    merged.write_others(transaction, now)
    return merged.room(before[0] if before else [])


def _remove_volumes(transaction: Transaction, ids: list[str], now: datetime) -> None:
    for table in (locks, attachments):
        transaction.execute(delete(table).where(among(transaction, table.c.volume_id, ids)))
    transaction.execute(
        update(snapshots)
        .where(among(transaction, snapshots.c.volume_id, ids), snapshots.c.removed_at.is_(None))
        .values(state=SnapshotState.REMOVED, removed_at=now)
    )
    transaction.execute(
        update(volumes)
        .where(among(transaction, volumes.c.id, ids))
        .values(state=VolumeState.REMOVED, removed_at=now, changed_at=now)
    )


def _use(transaction: Transaction, uses: list[_Use], now: datetime) -> None:
    for change in uses:
        if isinstance(change, LockGone):
            broken = transaction.execute(
                delete(locks).where(
                    locks.c.volume_id == change.volume_id,
                    locks.c.owner == change.owner,
                    locks.c.taken_at == change.taken_at,
                )
            )
            record(transaction, [change.event] * broken.rowcount, now)
        if isinstance(change, Opened):
            transaction.execute(
                update(attachments)
                .where(
                    attachments.c.volume_id == change.volume_id, attachments.c.host == change.host
                )
                .values(opening=change.opening)
            )
    replaced = [change for change in uses if isinstance(change, Detached)]
    if replaced:
        transaction.execute(
            delete(attachments).where(
                or_(
                    *(
                        and_(
                            attachments.c.volume_id == change.volume_id,
                            attachments.c.host == change.host,
                        )
                        for change in replaced
                    )
                )
            )
        )
    for change in uses:
        if isinstance(change, Attached):
            _attach(transaction, change, now)
        elif isinstance(change, MayBeAttached):
            there = (attachments.c.volume_id == change.volume_id, attachments.c.host == change.host)
            if transaction.execute(select(attachments.c.host).where(*there)).first() is None:
                values = {"uris": [], "read_only": change.read_only}
                _attach(transaction, Attached(change.volume_id, change.host, values), now)


def _attach(transaction: Transaction, change: Attached, now: datetime) -> None:
    updated = transaction.execute(
        update(attachments)
        .where(attachments.c.volume_id == change.volume_id, attachments.c.host == change.host)
        .values(**change.values)
    )
    if updated.rowcount == 0:
        insert_rows(
            transaction,
            attachments,
            [
                {
                    "volume_id": change.volume_id,
                    "host": change.host,
                    "attached_at": now,
                    **change.values,
                }
            ],
        )
