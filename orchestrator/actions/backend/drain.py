"""Drain a backend, or let it take work again."""

from __future__ import annotations

from orchestrator.actions.targets import check_enabled
from orchestrator.domain.action import Action, Checks, Lane
from orchestrator.domain.states import Role

DRAIN = Action(
    name="backend.drain",
    order=430,
    summary="Drain a backend: finish running jobs, start no others.",
    audit="set backend {backend} to draining",
    checks=Checks(check=check_enabled),
    role=Role.ADMIN,
    takes=(),
    lanes=(Lane.BACKEND,),
    administrative=True,
    needs_storage=False,
    journaled=False,
    route=("POST", "/drain"),
)

RESUME = Action(
    name="backend.resume",
    order=440,
    summary="Resume a draining backend.",
    audit="resumed backend {backend}",
    checks=Checks(check=check_enabled),
    role=Role.ADMIN,
    takes=(),
    lanes=(Lane.BACKEND,),
    administrative=True,
    needs_storage=False,
    journaled=False,
    route=("POST", "/resume"),
)
