"""Count what a backend has promised."""

from __future__ import annotations

from orchestrator.domain.action import Action, Checks, Lane
from orchestrator.domain.states import Role

RECOUNT = Action(
    name="backend.recount",
    order=410,
    summary="Recount what a backend has promised.",
    audit="recounted what backend {backend} has promised",
    checks=Checks(),
    role=Role.ADMIN,
    takes=(),
    lanes=(Lane.AUDIT,),
    needs_storage=False,
    journaled=False,
    route=("POST", "/recount"),
)
