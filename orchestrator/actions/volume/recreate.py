"""Make a volume whose storage is lost again, empty."""

from __future__ import annotations

from orchestrator.actions.targets import check_any_state, not_attached, target_volume
from orchestrator.domain.action import Action, Checks
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.states import Role, VolumeState


def _check(outlook: Outlook, intent: Intent) -> None:
    check_any_state(outlook, intent)
    if volume := target_volume(outlook, intent):
        not_attached(volume)


def _play(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        volume.state = VolumeState.AVAILABLE
        volume.snapshots.clear()


RECREATE = Action(
    name="volume.recreate",
    order=190,
    summary="Recreate, empty, a volume whose storage is lost; drop its snapshots' records.",
    audit="recreated volume {volume}, empty",
    checks=Checks(check=_check, effect=_play),
    role=Role.ADMIN,
    capability="absence",
    respects_lock=True,
    destructive=True,
    approval=True,
    route=("POST", "/volumes/{volume}/recreate"),
)
