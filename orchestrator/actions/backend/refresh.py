"""Read a backend's capacity and the use of its volumes."""

from __future__ import annotations

from orchestrator.domain.action import Action, Checks

REFRESH = Action(
    name="backend.refresh",
    order=380,
    summary="Read the capacity of a backend and the usage of its volumes again.",
    audit="refreshed backend {backend}",
    checks=Checks(),
    takes=(),
    lanes=(),
    schedulable=True,
    needs_storage=False,
    journaled=False,
    route=("POST", "/refresh"),
)
