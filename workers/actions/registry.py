"""Every action's handler, found by a walk through this package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType

from orchestrator.actions.registry import ACTIONS, modules_below
from orchestrator.domain.action import Action
from workers import actions
from workers.execution.handler import Handler


def handlers_in(
    modules: Iterable[ModuleType], declared: Mapping[str, Action]
) -> dict[str, Handler]:
    """The handlers in these modules' ``HANDLERS``, by the names of their actions.

    Raises `TypeError` unless each action that is declared has one, and each is an action's.
    """
    found: dict[str, Handler] = {}
    for handler in (one for module in modules for one in getattr(module, "HANDLERS", ())):
        name = handler.action.name
        if declared.get(name) is not handler.action:
            raise TypeError(f"there is a handler of {name}, which is no action that is declared")
        if name in found:
            raise TypeError(f"action {name} has two handlers")
        found[name] = handler
    if missing := sorted(declared.keys() - found.keys()):
        raise TypeError(f"there is no handler of {', '.join(missing)}")
    return found


#: Every action's handler. A worker that cannot have them all does not start.
HANDLERS = handlers_in(modules_below(actions), ACTIONS)
