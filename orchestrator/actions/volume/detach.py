"""Detach a volume from a host."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.targets import target_volume, volume_there
from orchestrator.domain.action import Action, Checks, Need, Params
from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.states import VolumeState


class DetachParams(Params):
    """How to detach."""

    force: bool = Field(
        default=False,
        description="Forget the attachment of a host that is dead; needs a reason and 'fenced'.",
    )
    fenced: bool = Field(
        default=False, description="Confirms that the dead host can no longer write."
    )


def _check(outlook: Outlook, intent: Intent) -> None:
    volume_there(outlook, intent, VolumeState.AVAILABLE, VolumeState.ERROR)
    if intent.params.get("force"):
        if not intent.params.get("fenced"):
            raise InvalidInput(
                "forced detach leaves a host's device behind: confirm with fenced=true that the "
                "host can no longer write",
                field="params.fenced",
            )
        if not (intent.reason or "").strip():
            raise InvalidInput("forced detach needs a reason: say what happened", field="reason")


def _play(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        volume.attachments.pop(intent.host or "", None)


DETACH = Action(
    name="volume.detach",
    order=240,
    summary="Detach a volume from a host.",
    audit="detached volume {volume} from {host}",
    params=DetachParams,
    checks=Checks(check=_check, effect=_play),
    host=Need.REQUIRED,
    capability="attach",
    respects_lock=True,
    on_host=True,
    route=("DELETE", "/volumes/{volume}/attachments/{host}"),
)
