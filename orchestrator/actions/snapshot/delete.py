"""Delete a snapshot."""

from __future__ import annotations

from orchestrator.actions.targets import snapshot_there, target_volume, volume_there
from orchestrator.domain.action import Action, Checks, Takes
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.states import VolumeState
from orchestrator.domain.targets import TargetRole


def _check(outlook: Outlook, intent: Intent) -> None:
    snapshot_there(
        volume_there(outlook, intent, VolumeState.AVAILABLE, VolumeState.RESTRICTED), intent
    )


def _play(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        volume.snapshots.pop(intent.snapshot or "", None)


DELETE = Action(
    name="snapshot.delete",
    order=280,
    summary="Delete a snapshot.",
    audit="deleted snapshot {snapshot} of volume {volume}",
    checks=Checks(check=_check, effect=_play),
    takes=(Takes("volume", role=TargetRole.PARENT), Takes("snapshot")),
    capability="snapshot",
    respects_lock=True,
    removes=True,
    route=("DELETE", "/volumes/{volume}/snapshots/{snapshot}"),
)
