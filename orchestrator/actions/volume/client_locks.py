"""Ask the storage which clients hold locks in a volume."""

from __future__ import annotations

from orchestrator.actions.targets import check_any_state
from orchestrator.domain.action import Action, Checks

CLIENT_LOCKS = Action(
    name="volume.client_locks",
    order=370,
    summary="List the locks that the storage's clients hold in a volume.",
    audit="read the client locks of volume {volume}",
    checks=Checks(check=check_any_state),
    lanes=(),
    capability="client_locks",
    journaled=False,
    route=("POST", "/volumes/{volume}/client_locks"),
)
