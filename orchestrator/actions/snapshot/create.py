"""Snapshot the current contents of a volume."""

from __future__ import annotations

from orchestrator.actions.targets import target_volume, volume_there
from orchestrator.domain.action import Action, Checks, Takes
from orchestrator.domain.errors import AlreadyExists
from orchestrator.domain.outlook import Intent, Outlook, SnapshotOutlook
from orchestrator.domain.targets import TargetRole


def _check(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    if intent.snapshot in volume.snapshots:
        raise AlreadyExists(
            f"volume {volume.name!r} has a snapshot {intent.snapshot!r} already, or will have by "
            "then: choose another name",
            field="snapshot",
        )


def _play(outlook: Outlook, intent: Intent) -> None:
    volume = target_volume(outlook, intent)
    if volume is not None and intent.snapshot is not None:
        volume.snapshots[intent.snapshot] = SnapshotOutlook(
            id=intent.snapshot_id or "", name=intent.snapshot, size_bytes=volume.size_bytes
        )


CREATE = Action(
    name="snapshot.create",
    order=270,
    summary="Snapshot the current contents of a volume.",
    audit="made snapshot {snapshot} of volume {volume}",
    checks=Checks(check=_check, effect=_play),
    takes=(Takes("volume", role=TargetRole.PARENT), Takes("snapshot")),
    capability="snapshot",
    reads_in_use=True,
    creates=True,
    slow=True,
    schedulable=True,
    route=("POST", "/volumes/{volume}/snapshots"),
)
