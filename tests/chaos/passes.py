"""Which points each case passes: found in dry runs, not written by hand."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.failpoints import POINTS
from tests.chaos.cases import Case
from tests.chaos.cell import count_passes
from tests.chaos.steps import IN_DRIVER, Step
from tests.chaos.world import World

#: What a scheduler passes depends on what it finds: a job that is due, one that was lost with
#: its worker, or one whose wake-up was lost.
_SCHEDULER_FINDS = ("due.", "reclaim.", "relay.")

#: How often one hears depends on what else there is to be told at the time.
_HEARD = frozenset({"waiters.heard"})

Counts = dict[str, int]


@dataclass(frozen=True)
class Place:
    """Where in a case's way a step is: at which pass of its point."""

    step: Step
    nth: int = 1
    #: Where the job is held up meanwhile, if what passes the point is not the job itself.
    held_at: str | None = None


class Passes:
    """Dry runs, each made when it is first asked for."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], Counts] = {}

    def steps(self, world: World, role: str, case: Case) -> dict[str, Place]:
        """The steps that a case passes, each with the pass that is meant: the job's own.

        What only comes with a follower, such as waking somebody for it, is met there; what is
        passed less often with one, as often as there.
        """
        found: dict[str, Place] = {}
        for finds in _SCHEDULER_FINDS if role == "scheduler" else ("",):
            alone, followed = self._counted(world, role, case, finds)
            for point in POINTS:
                count = alone.get(point, 0)
                if followed:
                    count = min(count, followed[point])
                if count or followed.get(point, 0):
                    first = Step(point)
                    found.setdefault(first.id, Place(first))
                varies = point in _HEARD or (case.of_all and point in IN_DRIVER)
                if count > 1 and not varies:
                    last = Step(point, last=True)
                    found.setdefault(last.id, Place(last, count))
        if role == "worker":
            found |= _heartbeats(found, world.database.kind)
        return found

    def _counted(self, world: World, role: str, case: Case, finds: str) -> tuple[Counts, Counts]:
        key = (world.driver_name, world.database.kind, role, case.id, finds)
        first = [one for one in POINTS if one.startswith(finds)]
        points = [*first, *(one for one in POINTS if one not in first)]
        for followed in (False, True):
            if (*key, str(followed)) not in self._known:
                self._known[*key, str(followed)] = (
                    {}
                    if followed and (role != "worker" or case.follower is None)
                    else count_passes(world, role, case, points, followed=followed)
                )
        return self._known[*key, "False"], self._known[*key, "True"]


def _heartbeats(found: dict[str, Place], database: str) -> dict[str, Place]:
    """Heartbeats come by themselves: while the job is held up on its way, so that one comes."""
    held_at = next(
        (point for point in ("driver.before_call", "finish.before_commit") if point in found), None
    )
    points = ["lease.before_renewal", "lease.after_renewal"]
    if held_at is None or (held_at == "finish.before_commit" and database == "sqlite"):
        # The outcome that is being written would hold up the renewal.
        return {}
    return {point: Place(Step(point), held_at=held_at) for point in points}
