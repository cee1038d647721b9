"""Rename a volume."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.targets import name_free, not_attached, volume_name, volume_there
from orchestrator.domain.action import Action, Checks, Lane, Params
from orchestrator.domain.names import VolumeName
from orchestrator.domain.outlook import Intent, Outlook


class RenameParams(Params):
    """What a volume shall be called."""

    new_name: VolumeName = Field(description="The new name, which must be free.")


def _check(outlook: Outlook, intent: Intent) -> None:
    volume = volume_there(outlook, intent)
    not_attached(volume)
    name_free(outlook, intent.backend, intent.params["new_name"], "params.new_name")


def _play(outlook: Outlook, intent: Intent) -> None:
    volume = outlook.volumes.pop((intent.backend, volume_name(intent)), None)
    if volume is not None:
        volume.name = intent.params["new_name"]
        outlook.volumes[intent.backend, volume.name] = volume


RENAME = Action(
    name="volume.rename",
    order=90,
    summary="Rename a volume.",
    audit="renamed volume {volume}",
    params=RenameParams,
    checks=Checks(check=_check, effect=_play),
    lanes=(Lane.VOLUME, Lane.NEW_NAME),
    capability="rename",
    respects_lock=True,
    route=("POST", "/volumes/{volume}/rename"),
)
