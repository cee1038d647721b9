"""Turns: submitters and batches share a queue fairly, whatever each has in it.

Workers take jobs by priority, then by turn, then in the order of submission. The jobs of a
batch, or the single jobs of one submitter, are dealt out over the turns to come, a few each;
who comes later begins at the turn that is being worked on, and not behind all of them. Where a
backend runs few jobs at once, a turn is no more than those: with one at a time, one each.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

#: Jobs of one batch, or of one submitter, in a turn, at most.
QUANTUM = 50
#: Submitters whose place is remembered; one that is forgotten begins at the head again.
_REMEMBERED = 10_000


class Turns:
    """The places of those who submit single jobs through this process, by queue."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        #: (queue, submitter) to (turn, jobs given in it)
        self._places: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    def single(self, queue: str, submitter: str, head: int, at_once: int | None = None) -> int:
        """The turn of a single job; ``head``: the turn that workers are at.

        ``at_once``: how many jobs the backend may run at the same time.
        """
        with self._guard:
            turn, given = self._places.pop((queue, submitter), (head, 0))
            if turn < head:
                turn, given = head, 0
            elif given >= quantum(at_once):
                turn, given = turn + 1, 0
            self._places[queue, submitter] = turn, given + 1
            if len(self._places) > _REMEMBERED:
                self._places.popitem(last=False)
        return turn


def in_batch(place: int, head: int, at_once: int | None = None) -> int:
    """The turn of the job at ``place`` of a batch; ``head`` and ``at_once`` as for a single one."""
    return head + place // quantum(at_once)


def quantum(at_once: int | None) -> int:
    """Jobs of one batch, or of one submitter, in a turn on a backend that runs so many at once."""
    return QUANTUM if at_once is None else min(QUANTUM, at_once)
