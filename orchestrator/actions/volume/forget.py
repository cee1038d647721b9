"""Delete a volume's record without touching the storage."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.targets import volume_there
from orchestrator.actions.volume.remove import play_remove
from orchestrator.domain.action import Action, Checks, Params
from orchestrator.domain.errors import InUse, Unsupported
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.states import Role, VolumeState


class ForgetParams(Params):
    """What must be so for it."""

    lost: bool = Field(
        default=False,
        description="Only if the volume is proved to be gone; refused if it is there, or if "
        "this kind of storage cannot prove it.",
    )
    force: bool = Field(
        default=False,
        description="Even while it is attached: the device stays, without a record.",
    )


def _check(outlook: Outlook, intent: Intent) -> None:
    """A pending volume that no job makes any more can be forgotten, too."""
    states = (state for state in VolumeState if state != VolumeState.REMOVED)
    volume = volume_there(outlook, intent, *states)
    backend = outlook.backend(intent.backend)
    if intent.params.get("lost") and "absence" not in backend.known_capabilities:
        raise Unsupported(
            f"backend {backend.name} (driver {backend.driver}) cannot tell a volume that is lost "
            "from one that it does not see: look yourself, and forget it without 'lost'",
            field="params.lost",
        )
    if volume.attachments and not intent.params.get("force"):
        hosts = sorted(volume.attachments)
        raise InUse(
            f"volume {volume.name!r} is attached to {', '.join(hosts)}: detach it first; with "
            "force=true it is forgotten all the same, and its device stays where it is",
            field="volume",
            hosts=hosts,
        )


FORGET = Action(
    name="volume.forget",
    order=160,
    summary="Delete a volume's record without touching the storage.",
    audit="forgot volume {volume}",
    params=ForgetParams,
    checks=Checks(check=_check, effect=play_remove),
    role=Role.ADMIN,
    respects_lock=True,
    destructive=True,
    needs_storage=False,
    journaled=False,
    frees=True,
    removes=True,
    route=("POST", "/volumes/{volume}/forget"),
)
