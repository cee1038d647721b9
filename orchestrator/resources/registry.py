"""The resources that there are: one of each kind that jobs name."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from orchestrator.domain.targets import KINDS
from orchestrator.resources.resource import Resource


def registered(kinds: Iterable[str]) -> dict[str, Resource]:
    """The resource of each kind: the class that is called like it, in its own room.

    Raises `ModuleNotFoundError` or `AttributeError` that names one which is not there.
    """
    rooms = {kind: import_module(f"orchestrator.resources.{kind}.resource") for kind in kinds}
    return {kind: getattr(room, _class_of(kind))() for kind, room in rooms.items()}


def _class_of(kind: str) -> str:
    return kind.title().replace("_", "")


#: Every kind by its name; what others refer to comes before them. A process that cannot have
#: them all does not start.
RESOURCES = registered(KINDS)
