"""Write the contents of a volume into a new file."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.targets import usable_snapshot, volume_there
from orchestrator.domain.action import Action, Checks, Need, Params, Takes
from orchestrator.domain.drivers import Reach
from orchestrator.domain.errors import InUse
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.outlook import BackendOutlook, Intent, Outlook, VolumeOutlook
from orchestrator.domain.places import ImagePath
from orchestrator.domain.targets import TargetRole


class ExportParams(Params):
    """Where a volume's contents shall be written."""

    target: ImagePath = Field(
        description="Path of the new file on the worker's host, within what 'transfer' in "
        "the configuration allows. Nothing is overwritten.",
        examples=["/srv/exports/vm1.raw"],
    )


def _check(outlook: Outlook, intent: Intent) -> None:
    if outlook.places is not None:
        outlook.places.target(intent.params["target"])
    volume = volume_there(outlook, intent)
    if intent.snapshot is not None:
        usable_snapshot(volume, intent)
    else:
        not_written_elsewhere(outlook.backend(intent.backend), volume, intent.host, "volume")


def not_written_elsewhere(
    backend: BackendOutlook, volume: VolumeOutlook, host: str | None, field: str
) -> None:
    """Refuse to read what another host may write to, which only that host could see."""
    if DRIVERS[backend.driver].reach is not Reach.HOST:
        return
    for other, attachment in volume.attachments.items():
        if other != host and not attachment.read_only:
            raise InUse(
                f"volume {volume.name!r} is attached to {other}, which may write to it meanwhile: "
                "detach it, or take a snapshot and read that",
                field=field,
                hosts=[other],
            )


EXPORT = Action(
    name="volume.export",
    order=50,
    summary="Write the contents of a volume, or of one of its snapshots, to a new file.",
    audit="exported volume {volume}",
    params=ExportParams,
    checks=Checks(check=_check),
    takes=(Takes("volume"), Takes("snapshot", Need.OPTIONAL, TargetRole.SOURCE)),
    host=Need.OPTIONAL,
    on_host=True,
    leaves_files=True,
    capability="export",
    stoppable=True,
    slow=True,
    time_limit=24 * 3600.0,
    route=("POST", "/volumes/{volume}/export"),
)
