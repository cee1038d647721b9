"""Roll a volume back to a snapshot."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.targets import not_attached, target_volume, usable_snapshot, volume_there
from orchestrator.domain.action import Action, Checks, Params, Takes
from orchestrator.domain.errors import NewerSnapshots
from orchestrator.domain.outlook import Intent, Outlook, SnapshotOutlook, VolumeOutlook
from orchestrator.domain.targets import TargetRole


class RollbackParams(Params):
    """How to treat what is newer than the snapshot."""

    discard_newer: bool = Field(
        default=False, description="Also delete the snapshots that are newer than this one."
    )


def newer_snapshots(volume: VolumeOutlook, snapshot: str) -> list[SnapshotOutlook]:
    """The snapshots taken after the one named, oldest first."""
    names = list(volume.snapshots)
    return [volume.snapshots[name] for name in names[names.index(snapshot) + 1 :]]


def _check(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    not_attached(volume)
    snapshot = usable_snapshot(volume, intent)
    newer = [found.name for found in newer_snapshots(volume, snapshot.name)]
    if newer and not intent.params.get("discard_newer"):
        raise NewerSnapshots(
            f"rolling back to {snapshot.name!r} would lose the newer snapshots "
            f"{', '.join(newer)}: delete them, or say discard_newer",
            field="snapshot",
            snapshots=newer,
        )


def _notes(outlook: Outlook, intent: Intent) -> list[str]:
    """What a rollback takes away besides, for people."""
    volume = target_volume(outlook, intent)
    if volume is None or intent.snapshot not in volume.snapshots:
        return []
    newer = [found.name for found in newer_snapshots(volume, intent.snapshot)]
    return [f"newer snapshots are deleted: {', '.join(newer)}"] if newer else []


def _play(outlook: Outlook, intent: Intent) -> None:
    volume = target_volume(outlook, intent)
    if volume is not None and intent.snapshot in volume.snapshots:
        for newer in newer_snapshots(volume, intent.snapshot):
            del volume.snapshots[newer.name]
        volume.size_bytes = volume.snapshots[intent.snapshot].size_bytes


ROLLBACK = Action(
    name="volume.rollback",
    order=100,
    summary="Roll a volume back to a snapshot.",
    audit="rolled volume {volume} back to snapshot {snapshot}",
    params=RollbackParams,
    checks=Checks(check=_check, effect=_play, notes=_notes),
    takes=(Takes("volume"), Takes("snapshot", role=TargetRole.SOURCE)),
    capability="rollback",
    respects_lock=True,
    destructive=True,
    slow=True,
    route=("POST", "/volumes/{volume}/rollback"),
)
