"""Make parts of a volume's record what the storage has."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from orchestrator.actions.volume.reconcile import RECONCILE
from orchestrator.domain.errors import BackendError, Conflict
from orchestrator.domain.states import SnapshotState
from orchestrator.resources.changes import Change
from orchestrator.resources.snapshot.changes import SnapshotFound, set_snapshot
from orchestrator.resources.volume.changes import set_volume
from orchestrator.store.tables import snapshots
from orchestrator.store.transaction import Transaction
from workers.actions.volume.settling import never_made
from workers.backends.base.facts import Absent, SnapshotFacts, VolumeFacts, there
from workers.execution.handler import Handler
from workers.execution.truth import not_seen, told_of
from workers.execution.work import (
    Done,
    Work,
    policy_named,
    positions,
    recorded_volume,
    settings_found,
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
    return settings_found(facts, recorded_volume(work).settings)


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
    # What a failed job has left of one is taken away as soon as that can be seen.
    for id_ in never_made(work):
        present.pop(id_, None)
    with work.database.read() as transaction:
        for id_, (one, place) in present.items():
            told = {
                "name": one.name,
                "size_bytes": one.size_bytes,
                "used_bytes": one.used_bytes,
                "position": place,
                "state": SnapshotState.AVAILABLE,
            }
            if id_ in recorded or _was_recorded(transaction, id_, work.volume.id):
                changes.append(set_snapshot(id_, removed_at=None, **told))
            else:
                row = {"id": id_, "volume_id": work.volume.id, "created_by_job": work.job_id}
                changes.append(SnapshotFound({**row, **told}))
    return changes


def _was_recorded(transaction: Transaction, snapshot_id: str, volume_id: str) -> bool:
    row = transaction.execute(
        select(snapshots.c.volume_id).where(snapshots.c.id == snapshot_id)
    ).scalar()
    if row is not None and row != volume_id:
        raise Conflict(f"the snapshot {snapshot_id} is recorded of another volume")
    return row is not None


HANDLERS = (Handler(RECONCILE, reconcile),)
