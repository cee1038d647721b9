"""Remove what is left of a volume that the inventory has removed."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select

from orchestrator.actions.repairs import REMOVED
from orchestrator.actions.volume.remove_orphan import REMOVE_ORPHAN
from orchestrator.domain.errors import Conflict, InUse, WrongState
from orchestrator.domain.states import FindingKind, FindingState, SnapshotState, VolumeState
from orchestrator.findings.recording import finding
from orchestrator.resources.volume.changes import FORGOTTEN
from orchestrator.store.columns import db_now
from orchestrator.store.tables import snapshots, volumes
from workers.backends.base.abilities import CanSnapshot
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import Absent, NotOurs, Removed, VolumeFacts, there
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, Whole
from workers.execution.truth import LastCall
from workers.execution.work import Done, Work, sizes_of


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
    with work.database.read() as transaction:
        row = finding(transaction, number)
        now: datetime = transaction.execute(select(db_now())).scalar_one()
        volume = transaction.execute(
            select(volumes).where(volumes.c.id == row["volume_id"])
        ).first()
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
    with work.database.read() as transaction:
        return set(
            transaction.execute(
                select(snapshots.c.id).where(
                    snapshots.c.volume_id == volume_id,
                    snapshots.c.state == SnapshotState.REMOVED,
                )
            ).scalars()
        )


def _outcome(work: Work) -> Become:
    begun = work.intended("remove_orphan")
    assert begun is not None and work.intent.volume is not None  # noqa: S101 - it was touched
    left = VolumeRef(str(begun.detail["id"]), work.intent.volume)
    work.check_identity()
    work.driver.fence_off(left, LastCall(work))
    found = work.driver.inspect(left)
    if isinstance(found, Absent):
        told = {"removed": True, "id": left.id, "wiped_bytes": None}
        return Whole(Done(result=told, before={"id": left.id}, after={"state": "removed"}))
    if isinstance(found, NotOurs) or found.name != left.name:
        return Nothing()
    kept = work.driver.list_snapshots(left)
    return Part(
        f"it is there still, with {len(kept)} of the snapshots that it had",
        {"snapshots": [one.name for one in kept]},
    )


HANDLERS = (Handler(REMOVE_ORPHAN, remove_orphan, outcome=_outcome),)
