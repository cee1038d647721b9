"""Take a volume that is on the storage into the inventory."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.targets import name_free, volume_name
from orchestrator.actions.volume.create import add
from orchestrator.domain.action import Action, Checks, Params
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.states import Role


class AdoptParams(Params):
    """Whether to adopt also what was ours before."""

    take_over: bool = Field(
        default=False,
        description="Even if it bears a stamp of ours that belongs to no volume of the inventory: "
        "it was forgotten, or the inventory was lost.",
    )


def _check(outlook: Outlook, intent: Intent) -> None:
    name_free(outlook, intent.backend, volume_name(intent), "volume")


def _play(outlook: Outlook, intent: Intent) -> None:
    # How large it is only the storage can tell.
    add(outlook, intent, 0, {}, {})


def _notes(_outlook: Outlook, _intent: Intent) -> list[str]:
    """What a plan of an adoption cannot tell, for people."""
    return [
        "its bytes are the volume's, whatever their format: the result says if they are "
        "recognisably no raw disk"
    ]


ADOPT = Action(
    name="volume.adopt",
    order=170,
    summary="Take a foreign volume on the storage into the inventory.",
    audit="adopted volume {volume}",
    params=AdoptParams,
    checks=Checks(check=_check, effect=_play, notes=_notes),
    role=Role.ADMIN,
    capability="adopt",
    adopts=True,
    route=("POST", "/volumes/{volume}/adopt"),
)
