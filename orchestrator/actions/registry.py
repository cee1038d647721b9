"""Every action there is, found by a walk through this package."""

from __future__ import annotations

import pkgutil
from collections.abc import Container, Iterable, Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from orchestrator import actions
from orchestrator.domain.action import Action
from orchestrator.domain.outlook import Intent
from orchestrator.domain.targets import Target


def modules_below(package: ModuleType) -> Iterator[ModuleType]:
    """The modules of a package's subpackages: one subpackage a resource, one module a verb."""
    for resource in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if resource.ispkg:
            for verb in pkgutil.iter_modules(import_module(resource.name).__path__):
                yield import_module(f"{resource.name}.{verb.name}")


def declared(modules: Iterable[ModuleType]) -> dict[str, Action]:
    """The actions that these modules declare, by name, in their order.

    Raises `TypeError` where the name of one, or its place in the order, is another's.
    """
    found = {id(one): one for m in modules for one in vars(m).values() if isinstance(one, Action)}
    ordered = sorted(found.values(), key=lambda action: action.order)
    by_name: dict[str, Action] = {}
    places: dict[int, str] = {}
    for action in ordered:
        if action.name in by_name:
            raise TypeError(f"action {action.name} is declared twice")
        if action.order in places:
            raise TypeError(f"actions {places[action.order]} and {action.name} have one order")
        by_name[action.name] = action
        places[action.order] = action.name
    return by_name


#: Every action by name. A process that cannot have them all does not start.
ACTIONS = declared(modules_below(actions))

#: The names of the actions that make volumes, and snapshots; that give volumes an export policy;
#: and after which what they are about is gone.
MAKING_VOLUMES = tuple(name for name, action in ACTIONS.items() if action.made == "volume")
MAKING_SNAPSHOTS = tuple(name for name, action in ACTIONS.items() if action.made == "snapshot")
GIVING_POLICIES = tuple(name for name, action in ACTIONS.items() if "policy" in action.assigned)
REMOVING = tuple(name for name, action in ACTIONS.items() if action.removes)


def collection(kind: str) -> str:
    """The path, below that of a backend, where the objects of a kind are made and listed."""
    return ACTIONS[f"{kind}.create"].route[1]


def impossible(capabilities: Container[str]) -> list[Action]:
    """The actions that need another capability than these."""
    needing = [action for action in ACTIONS.values() if action.capability is not None]
    return [action for action in needing if action.capability not in capabilities]


def targets_of(row: Mapping[str, Any]) -> tuple[Target, ...]:
    """What a stored job is about besides its volume and its snapshot."""
    return tuple([Target(*one) for one in row["targets"]]) if row["targets"] else ()


def intent_of(row: Mapping[str, Any], backend: str) -> Intent:
    """The intent of a stored job; ``row`` has the columns of `jobs`, and its
    ``targets``."""
    return Intent(
        action=ACTIONS[row["action"]],
        backend=backend,
        volume=row["volume"],
        snapshot=row["snapshot"],
        host=row["host"],
        params=row["params"],
        reason=row["reason"],
        volume_id=row["volume_id"],
        snapshot_id=row["snapshot_id"],
        others=targets_of(row),
        account=row["account"],
    )
