"""Drain a backend, or let it take work again."""

from __future__ import annotations

from orchestrator.actions.targets import check_enabled
from orchestrator.domain.action import Action, Lane, Need, Rule
from orchestrator.domain.states import Role

DRAIN = Action(
    name="backend.drain",
    order=430,
    summary="Let a backend finish what was begun and start nothing more.",
    audit="set backend {backend} to draining",
    rule=Rule(check=check_enabled),
    role=Role.ADMIN,
    volume=Need.NO,
    lanes=(Lane.BACKEND,),
    administrative=True,
    needs_storage=False,
    journaled=False,
    route=("POST", "/drain"),
)

RESUME = Action(
    name="backend.resume",
    order=440,
    summary="Let a draining backend take work again.",
    audit="resumed backend {backend}",
    rule=Rule(check=check_enabled),
    role=Role.ADMIN,
    volume=Need.NO,
    lanes=(Lane.BACKEND,),
    administrative=True,
    needs_storage=False,
    journaled=False,
    route=("POST", "/resume"),
)
