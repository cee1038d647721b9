"""Remove a volume and its data."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.policy.assign import play_unassign
from orchestrator.actions.targets import not_attached, volume_name, volume_there
from orchestrator.actions.volume.settings import play_unmount
from orchestrator.domain.action import Action, Checks, Params
from orchestrator.domain.errors import InUse
from orchestrator.domain.outlook import Intent, Outlook, VolumeOutlook
from orchestrator.domain.states import Role, VolumeState


class RemoveParams(Params):
    """How to remove."""

    wipe: bool = Field(default=False, description="Overwrite the data with zeroes first.")


def _check_remove(outlook: Outlook, intent: Intent) -> None:
    _check_unused(volume_there(outlook, intent, VolumeState.AVAILABLE, VolumeState.ERROR))


def _check_purge(outlook: Outlook, intent: Intent) -> None:
    _check_unused(volume_there(outlook, intent, VolumeState.RESTRICTED))


def _check_unused(volume: VolumeOutlook) -> None:
    not_attached(volume)
    if volume.snapshots:
        raise InUse(
            f"volume {volume.name!r} has snapshots ({', '.join(volume.snapshots)}): "
            "delete them first",
            field="volume",
            snapshots=list(volume.snapshots),
        )


def play_remove(outlook: Outlook, intent: Intent) -> None:
    volume = outlook.volumes.pop((intent.backend, volume_name(intent)), None)
    if volume is not None:
        play_unmount(outlook, intent.backend, volume)
        play_unassign(outlook, volume)


REMOVE = Action(
    name="volume.remove",
    order=140,
    summary="Remove a volume and its data.",
    audit="removed volume {volume}",
    params=RemoveParams,
    checks=Checks(check=_check_remove, effect=play_remove),
    capability="remove",
    respects_lock=True,
    destructive=True,
    time_limit=24 * 3600.0,
    frees=True,
    removes=True,
    route=("DELETE", "/volumes/{volume}"),
)

PURGE = Action(
    name="volume.purge",
    order=150,
    summary="Remove a restricted volume and its data.",
    audit="purged volume {volume}",
    params=RemoveParams,
    checks=Checks(check=_check_purge, effect=play_remove),
    role=Role.ADMIN,
    capability="remove",
    respects_lock=True,
    destructive=True,
    time_limit=24 * 3600.0,
    frees=True,
    removes=True,
    route=("POST", "/volumes/{volume}/purge"),
)
