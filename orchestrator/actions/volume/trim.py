"""Give the unused blocks of a volume back."""

from __future__ import annotations

from orchestrator.actions.targets import check_idle
from orchestrator.domain.action import Action, Checks

TRIM = Action(
    name="volume.trim",
    order=115,
    summary="Give blocks that hold only zeroes back to the storage; the contents stay the same.",
    audit="trimmed volume {volume}",
    # Between the look at a block and its return, a user of the volume could write to it.
    checks=Checks(check=check_idle),
    stoppable=True,
    capability="trim",
    respects_lock=True,
    slow=True,
    time_limit=24 * 3600.0,
    schedulable=True,
    route=("POST", "/volumes/{volume}/trim"),
)
