"""Update a volume's record to what the storage has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.actions.targets import check_any_state
from orchestrator.domain.action import Action, Checks, Params
from orchestrator.domain.states import Role


class ReconcileParams(Params):
    """What of a volume's record is taken from the storage."""

    what: Annotated[
        list[Literal["size", "metadata", "settings", "policy", "snapshots"]], Field(min_length=1)
    ] = Field(
        description="'size', 'metadata', 'settings', 'policy' (the assigned one), 'snapshots' "
        "(drop the records of missing ones, record those that bear a stamp of ours)."
    )


RECONCILE = Action(
    name="volume.reconcile",
    order=180,
    summary="Update a volume's record to what the storage has.",
    audit="made the record of volume {volume} what the storage has",
    params=ReconcileParams,
    checks=Checks(check=check_any_state),
    role=Role.ADMIN,
    capability="inspect",
    journaled=False,
    route=("POST", "/volumes/{volume}/reconcile"),
)
