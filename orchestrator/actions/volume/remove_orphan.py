"""Remove storage that was left of a removed volume."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.actions.targets import name_free, volume_name
from orchestrator.domain.action import Action, Checks, Params
from orchestrator.domain.outlook import Intent, Outlook
from orchestrator.domain.states import Role


class RemoveOrphanParams(Params):
    """Which finding tells of it."""

    finding: Annotated[int, Field(ge=1)] = Field(
        description="The number of an open finding of the kind 'orphan', older than the grace "
        "time, about a volume that the inventory had removed.",
    )


def _check(outlook: Outlook, intent: Intent) -> None:
    """Storage under a name that a volume has is told apart by people, not by us."""
    name_free(outlook, intent.backend, volume_name(intent), "volume")


REMOVE_ORPHAN = Action(
    name="volume.remove_orphan",
    order=200,
    summary="Remove what is left on the storage of a volume that the inventory has removed.",
    audit="removed what was left of volume {volume}",
    params=RemoveOrphanParams,
    checks=Checks(check=_check),
    role=Role.ADMIN,
    capability="remove",
    destructive=True,
    time_limit=24 * 3600.0,
    route=("POST", "/volumes/{volume}/remove_orphan"),
)
