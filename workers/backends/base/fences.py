"""Late calls: those of a claim after which another one has changed the same object."""

from __future__ import annotations

from orchestrator.domain.errors import Conflict
from workers.backends.base.call import Call


def refuse_late(name: str, seen: int, call: Call) -> None:
    """`Conflict` if a later claim, that of the fence ``seen``, has changed the object."""
    if seen > call.fence:
        raise Conflict(
            f"a later claim ({seen}) has already changed {name}: this one ({call.fence}) is too "
            "late",
            fence=seen,
        )
