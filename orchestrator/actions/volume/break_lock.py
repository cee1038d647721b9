"""Break the lock on a volume."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.actions.targets import check_any_state
from orchestrator.domain.action import Action, Checks, Params
from orchestrator.domain.names import HostName
from orchestrator.domain.states import Role


class BreakLockParams(Params):
    """Whose lock is meant."""

    owner: HostName | None = Field(
        default=None, description="The host that holds it; any host, if absent."
    )
    taken_at: Annotated[str, Field(max_length=40)] | None = Field(
        default=None, description="When it was taken, as 'lock show' prints it."
    )


BREAK_LOCK = Action(
    name="volume.break_lock",
    order=210,
    summary="Break the lock on a volume, whoever holds it.",
    audit="broke the lock on volume {volume}",
    params=BreakLockParams,
    checks=Checks(check=check_any_state),
    role=Role.ADMIN,
    lanes=(),
    needs_storage=False,
    journaled=False,
    route=("POST", "/volumes/{volume}/break_lock"),
)
