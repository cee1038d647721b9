"""Compare a volume's record with the storage."""

from __future__ import annotations

from orchestrator.actions.targets import check_any_state
from orchestrator.domain.action import Action, Checks, Need

VERIFY = Action(
    name="volume.verify",
    order=220,
    summary="Compare a volume's record with the storage; one in error may become available again.",
    audit="verified volume {volume}",
    checks=Checks(check=check_any_state),
    host=Need.OPTIONAL,
    on_host=True,
    capability="inspect",
    schedulable=True,
    journaled=False,
    route=("POST", "/volumes/{volume}/verify"),
)
