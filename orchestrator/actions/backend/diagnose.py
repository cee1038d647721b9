"""Say of everything that could serve a backend whether it can, and why not."""

from __future__ import annotations

from orchestrator.domain.action import Action, Checks, Need

DIAGNOSE = Action(
    name="backend.diagnose",
    order=420,
    summary="Report for everything that could serve a backend whether it can, and why not.",
    audit="diagnosed backend {backend}",
    checks=Checks(),
    takes=(),
    host=Need.OPTIONAL,
    lanes=(),
    capability="diagnose",
    on_host=True,
    needs_storage=False,
    journaled=False,
    route=("POST", "/diagnose"),
)
