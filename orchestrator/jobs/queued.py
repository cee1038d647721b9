"""What a transaction has queued: which queues have got work, and which jobs that is.

Wake-ups report it after the commit (`orchestrator.jobs.wakeups`). Ids are hints like all that
a wake-up says: a worker that is given them need not search the queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.domain.queues import GROUP_BUDGET

#: Jobs that are named one by one; of more, workers look at the queue.
MOST_NAMED = 50


@dataclass(frozen=True)
class Queued:
    """Jobs that were queued for one queue."""

    #: Their share of claimed groups, `GROUP_BUDGET` each.
    cost: int = GROUP_BUDGET
    count: int = 1
    #: Their ids; None if they are unknown, or too many.
    ids: tuple[int, ...] | None = None

    def __add__(self, other: Queued) -> Queued:
        ids = None if self.ids is None or other.ids is None else self.ids + other.ids
        if ids is not None and len(ids) > MOST_NAMED:
            ids = None
        return Queued(self.cost + other.cost, self.count + other.count, ids)


#: By queue.
Wake = Mapping[str, Queued]


def together(*wakes: Wake) -> dict[str, Queued]:
    """What several have queued."""
    found: dict[str, Queued] = {}
    for wake in wakes:
        for queue, queued in wake.items():
            found[queue] = found[queue] + queued if queue in found else queued
    return found


def queued(jobs: Iterable[tuple[str, int, int]]) -> dict[str, Queued]:
    """Jobs that were queued; of each its queue, id and cost."""
    found: dict[str, tuple[list[int], list[int]]] = {}
    for queue, job_id, cost in jobs:
        ids, costs = found.setdefault(queue, ([], []))
        ids.append(job_id)
        costs.append(cost)
    return {
        queue: Queued(sum(costs), len(ids), tuple(ids) if len(ids) <= MOST_NAMED else None)
        for queue, (ids, costs) in found.items()
    }


def released(jobs: Iterable[tuple[str, int]]) -> dict[str, Queued]:
    """Jobs that had waited, each with its queue and id; one wake-up is enough for each queue."""
    found = queued((queue, job_id, 0) for queue, job_id in jobs)
    return {name: Queued(GROUP_BUDGET, one.count, one.ids) for name, one in found.items()}


def unnamed(queues: Iterable[str]) -> dict[str, Queued]:
    """Queues that have work, whatever it is."""
    return dict.fromkeys(queues, Queued())
