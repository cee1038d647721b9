"""Repairs of what audits find: handlers of their actions."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, select

from orchestrator.domain.errors import BackendError, Conflict, InUse, WrongState
from orchestrator.domain.repairs import REMOVED
from orchestrator.domain.states import (
    FindingKind,
    FindingState,
    SnapshotState,
    VolumeState,
)
from orchestrator.findings.recording import finding
from orchestrator.history.events import Event
from orchestrator.inventory import promises
from orchestrator.inventory.changes import (
    FORGOTTEN,
    Change,
    LockGone,
    Recounted,
    SnapshotFound,
    set_snapshot,
    set_volume,
)
from orchestrator.store.columns import db_now
from orchestrator.store.tables import locks, snapshots, volumes
from orchestrator.store.tables import promises as promised
from workers.backends.base.abilities import CanSnapshot
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import Absent, NotOurs, Removed, SnapshotFacts, VolumeFacts, there
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.execution.truth import not_seen, told_of
from workers.execution.work import (
    Done,
    Work,
    exports_of,
    policy_named,
    positions,
    recorded_volume,
    sizes_of,
)


def reconcile(work: Work) -> Done:
    """Make parts of a volume's record what the storage has; the storage is not touched."""
    what: list[str] = work.intent.params["what"]
    record = recorded_volume(work)
    facts = work.driver.inspect(work.volume)
    if isinstance(facts, Absent):
        raise BackendError(
            f"the storage of volume {record.name!r} is gone: 'volume.forget' strikes it, and "
            "'volume.recreate' makes it anew, empty"
        )
    facts = there(facts, work.volume)
    values: dict[str, Any] = {}
    for part in what:
        if part in _PARTS:
            values |= _PARTS[part](work, facts)
    changes: list[Change] = [set_volume(record.id, **values)] if values else []
    if "snapshots" in what:
        changes += _snapshots(work, work.driver.list_snapshots(work.volume))
    told = {"what": what, **sizes_of(facts), **told_of(changes)}
    return Done(
        result=told,
        changes=changes,
        before={"size_bytes": record.size_bytes, "snapshots": sorted(record.snapshots)},
        after=told,
    )


def _size(_work: Work, facts: VolumeFacts) -> dict[str, Any]:
    return {**sizes_of(facts), "requested_bytes": facts.size_bytes}


def _metadata(work: Work, facts: VolumeFacts) -> dict[str, Any]:
    return {} if "metadata" in work.driver.cannot_tell else {"metadata": dict(facts.metadata)}


def _settings(work: Work, facts: VolumeFacts) -> dict[str, Any]:
    return exports_of(facts, recorded_volume(work).settings)


def _policy(work: Work, facts: VolumeFacts) -> dict[str, Any]:
    if facts.policy is None:
        return {"policy_id": None}
    found = policy_named(work, facts.policy)
    if found is None:
        raise Conflict(
            f"the storage gives the volume the export policy {facts.policy!r}, which the "
            "inventory does not have: assign one that it has"
        )
    return {"policy_id": found}


#: What each part of the record becomes.
_PARTS = {"size": _size, "metadata": _metadata, "settings": _settings, "policy": _policy}


def _snapshots(work: Work, found: list[SnapshotFacts]) -> list[Change]:
    """Strike the snapshots that are gone, and record those that bear a stamp of ours."""
    recorded = {one.id: one for one in recorded_volume(work).snapshots.values()}
    placed = zip(found, positions(found), strict=True)
    present = {one.id: (one, place) for one, place in placed if one.id is not None}
    changes = not_seen(work, {*present}, recorded)
    with work.database.read() as connection:
        for id_, (one, place) in present.items():
            told = {
                "name": one.name,
                "size_bytes": one.size_bytes,
                "used_bytes": one.used_bytes,
                "position": place,
                "state": SnapshotState.AVAILABLE,
            }
            if id_ in recorded or _was_recorded(connection, id_, work.volume.id):
                changes.append(set_snapshot(id_, removed_at=None, **told))
            else:
                row = {"id": id_, "volume_id": work.volume.id, "created_by_job": work.job_id}
                changes.append(SnapshotFound({**row, **told}))
    return changes


def _was_recorded(connection: Connection, snapshot_id: str, volume_id: str) -> bool:
    row = connection.execute(
        select(snapshots.c.volume_id).where(snapshots.c.id == snapshot_id)
    ).scalar()
    if row is not None and row != volume_id:
        raise Conflict(f"the snapshot {snapshot_id} is recorded of another volume")
    return row is not None


def refuse_unless_lost(work: Work) -> None:
    """Raise `Conflict` unless the storage of a recorded volume is seen to be gone."""
    look = work.driver.inspect(work.volume)
    if not isinstance(look, Absent):
        raise _not_lost(work, look)
    _refuse_held(work)


def _refuse_held(work: Work) -> None:
    """Raise `InUse` if a device of this host still holds a volume that is not in its place."""
    if held := work.driver.devices(work.volume):
        raise InUse(
            f"the storage of volume {work.volume.name!r} is not in its place, and {held[0].path} "
            "still holds it: it is not lost. Save what is on the device, or put the image back"
        )


def _not_lost(work: Work, look: VolumeFacts | NotOurs) -> Conflict:
    name = there(look, work.volume).name
    return Conflict(
        f"the storage of volume {work.volume.name!r} is there, as {name!r}: it is not lost; "
        "'volume.verify' compares it with its record"
    )


def recreate(work: Work) -> Done:
    """Make a lost volume anew, empty, under its id; snapshots that are still there stay.

    Nothing that is found there is ever taken away, nor what was begun here.
    """
    record = recorded_volume(work)
    begun = work.intended("recreate") is not None
    look = work.driver.inspect(work.volume)
    if isinstance(look, Absent):
        _refuse_held(work)
        work.intend("recreate", size_bytes=record.size_bytes)
        facts = work.driver.create(work.volume, record.size_bytes, record.metadata, work)
    elif not begun:
        raise _not_lost(work, look)
    else:
        facts = there(look, work.volume)
    kept: set[str | None] = {one.id for one in work.driver.list_snapshots(work.volume)}
    lost = [one for one in record.snapshots.values() if one.id not in kept]
    changes = not_seen(work, kept, {one.id for one in lost})
    told = {"state": VolumeState.AVAILABLE, **sizes_of(facts)}
    return Done(
        result={
            **sizes_of(facts),
            "lost_snapshots": [one.name for one in lost],
            "kept_snapshots": [one.name for one in record.snapshots.values() if one.id in kept],
            **told_of(changes),
        },
        changes=[set_volume(record.id, detail=None, **told), *changes],
        before={"state": record.state, "snapshots": [*record.snapshots]},
        # What another attempt finds may also be the volume itself, which has come back.
        after={"empty": not begun or facts.used_bytes == 0, **told},
    )


def remove_orphan(work: Work) -> Done:
    """Remove what is left of a volume that the inventory has removed, and has not forgotten."""
    begun = work.intended("remove_orphan")
    stamp = str(begun.detail["id"]) if begun is not None else _removable(work)
    assert work.intent.volume is not None  # noqa: S101 - the request model requires it
    left = VolumeRef(stamp, work.intent.volume)
    look = work.driver.inspect(left)
    facts = None if isinstance(look, Absent) else there(look, left)
    if facts is not None:
        _refuse_used_orphan(work, left, facts)
    found = work.driver.list_snapshots(left)
    removed = _removed_snapshots(work, stamp)
    if kept := sorted(one.name for one in found if one.id not in removed):
        raise InUse(
            f"{left.name!r} has snapshots that are not known as removed ({', '.join(kept)}): "
            "adopt the volume, and decide about them"
        )
    if facts is None and not found:
        return Done(result={"removed": begun is not None, "id": stamp})
    work.intend("remove_orphan", id=stamp)
    for one in found:
        driver_that(work.driver, CanSnapshot).delete_snapshot(
            SnapshotRef(str(one.id), one.name, left), work
        )
    done = Removed(found=True) if facts is None else work.driver.remove(left, work)
    return Done(
        result={
            "removed": done.found,
            "id": stamp,
            "snapshots_deleted": [one.name for one in found],
        },
        before={
            "id": stamp,
            "snapshots": [one.name for one in found],
            **({} if facts is None else sizes_of(facts)),
        },
        after={"state": VolumeState.REMOVED},
    )


def _refuse_used_orphan(work: Work, left: VolumeRef, facts: VolumeFacts) -> None:
    if facts.name != left.name:
        # Under another name it is what somebody has made of it.
        raise Conflict(
            f"what is left of {left.name!r} is called {facts.name!r} by now: somebody has renamed "
            "it, so it can only be adopted"
        )
    in_use = [device.path or ", ".join(device.uris) for device in work.driver.devices(left)]
    if in_use:
        raise InUse(f"{left.name!r} is in use on {work.host} as {'; '.join(in_use)}")


def _removable(work: Work) -> str:
    """The stamp of what may be removed. Raises `WrongState` where it may not, or not yet."""
    number = work.intent.params["finding"]
    with work.database.read() as connection:
        row = finding(connection, number)
        now: datetime = connection.execute(select(db_now())).scalar_one()
        volume = connection.execute(select(volumes).where(volumes.c.id == row["volume_id"])).first()
    about = (row["kind"], row["backend_id"], row["volume"])
    if about != (FindingKind.ORPHAN, work.claim.backend_id, work.intent.volume):
        raise WrongState(
            f"finding {number} is not about storage of this name without a record",
            field="params.finding",
        )
    if row["state"] != FindingState.OPEN:
        raise WrongState(
            f"finding {number} is {row['state']}: audit the backend again", field="params.finding"
        )
    plain = row["detail"].get("whose") == REMOVED and not row["detail"].get("copies")
    if volume is None or not plain or not _was_removed(volume, row["volume"]):
        raise WrongState(
            f"what finding {number} is about was not removed by anybody: it can only be adopted",
            field="params.finding",
        )
    after = row["first_seen_at"] + timedelta(hours=work.here.audit.grace_hours)
    if now < after:
        raise WrongState(
            f"finding {number} was seen first at {row['first_seen_at']:%FT%TZ}: what it is about "
            f"may be removed after {after:%FT%TZ} (audit.grace_hours)",
            field="params.finding",
        )
    return str(volume.id)


def _was_removed(volume: Any, name: str) -> bool:
    """Whether the inventory had this volume under this name, and removed it."""
    removed = volume.state == VolumeState.REMOVED and volume.detail != FORGOTTEN
    return bool(removed and volume.name == name)


def _removed_snapshots(work: Work, volume_id: str) -> set[str]:
    with work.database.read() as connection:
        return set(
            connection.execute(
                select(snapshots.c.id).where(
                    snapshots.c.volume_id == volume_id,
                    snapshots.c.state == SnapshotState.REMOVED,
                )
            ).scalars()
        )


def break_lock(work: Work) -> Done:
    """Break the lock on a volume; nothing if there is none."""
    record = recorded_volume(work)
    with work.database.read() as connection:
        row = connection.execute(select(locks).where(locks.c.volume_id == record.id)).first()
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
        kind="lock.broken",
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


def recount(work: Work) -> Done:
    """Count anew what a backend has promised."""
    backend_id = work.claim.backend_id
    with work.database.read() as connection:
        kept = connection.execute(
            select(promised.c.promised_bytes).where(promised.c.backend_id == backend_id)
        ).scalar()
        counted = promises.counted(connection, backend_id)
    return Done(
        result={"promised_bytes": counted},
        changes=[Recounted(backend_id)],
        before={"promised_bytes": kept},
        after={"promised_bytes": counted},
    )
