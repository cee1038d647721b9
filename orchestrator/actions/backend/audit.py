"""Compare what a backend really has with the inventory."""

from __future__ import annotations

from orchestrator.domain.action import Action, Checks, Lane, Need

AUDIT = Action(
    name="backend.audit",
    order=400,
    summary="Compare the storage of a backend with the inventory; write findings.",
    audit="audited backend {backend}",
    checks=Checks(),
    schedulable=True,
    takes=(),
    host=Need.OPTIONAL,
    on_host=True,
    lanes=(Lane.AUDIT,),
    stoppable=True,
    slow=True,
    time_limit=24 * 3600.0,
    journaled=False,
    route=("POST", "/audit"),
)
