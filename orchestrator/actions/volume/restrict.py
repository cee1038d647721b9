"""Hide a volume and keep its data; bring it back."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.actions.targets import check_idle, target_volume, volume_there
from orchestrator.domain.action import Action, Checks
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.states import Role, VolumeState


def _check_hidden(outlook: Outlook, intent: Intent) -> None:
    volume_there(outlook, intent, VolumeState.RESTRICTED)


def _becomes(state: VolumeState) -> Callable[[Outlook, Intent], None]:
    def effect(outlook: Outlook, intent: Intent) -> None:
        if volume := target_volume(outlook, intent):
            volume.state = state

    return effect


RESTRICT = Action(
    name="volume.restrict",
    order=120,
    summary="Hide a volume and keep its data.",
    audit="restricted volume {volume}",
    checks=Checks(check=check_idle, effect=_becomes(VolumeState.RESTRICTED)),
    respects_lock=True,
    destructive=True,
    route=("POST", "/volumes/{volume}/restrict"),
)

UNRESTRICT = Action(
    name="volume.unrestrict",
    order=130,
    summary="Make a hidden volume visible again.",
    audit="brought volume {volume} back",
    checks=Checks(check=_check_hidden, effect=_becomes(VolumeState.AVAILABLE)),
    role=Role.ADMIN,
    route=("POST", "/volumes/{volume}/unrestrict"),
)
