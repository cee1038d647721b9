"""What is asked of snapshots, and what they leave."""

from __future__ import annotations

from orchestrator.domain.errors import AlreadyExists
from orchestrator.domain.states import VolumeState
from orchestrator.jobs.outlook import Intent, Outlook, SnapshotOutlook
from orchestrator.jobs.rules.targets import snapshot_there, target_volume, volume_there


def check_snapshot(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    if intent.snapshot in volume.snapshots:
        raise AlreadyExists(
            f"volume {volume.name!r} has a snapshot {intent.snapshot!r} already, or will have by "
            "then: choose another name",
            field="snapshot",
        )


def play_snapshot(outlook: Outlook, intent: Intent) -> None:
    volume = target_volume(outlook, intent)
    if volume is not None and intent.snapshot is not None:
        volume.snapshots[intent.snapshot] = SnapshotOutlook(
            id=intent.snapshot_id or "", name=intent.snapshot, size_bytes=volume.size_bytes
        )


def check_delete_snapshot(outlook: Outlook, intent: Intent) -> None:
    snapshot_there(
        volume_there(outlook, intent, VolumeState.AVAILABLE, VolumeState.RESTRICTED), intent
    )


def play_delete_snapshot(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        volume.snapshots.pop(intent.snapshot or "", None)
