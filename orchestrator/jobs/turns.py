"""Turns: submitters and batches share a queue fairly, whatever each has in it.

Workers take jobs by priority, then by turn, then in the order of submission. The jobs of a
batch, or the single jobs of one submitter, are dealt out over the turns to come, a few each;
who comes later begins at the turn that is being worked on, and not behind all of them. Where a
backend runs few jobs at once, a turn is no more than those: with one at a time, one each.

The turn that is being worked on is that of the next job in the queue. To find it is to walk over
all that has left the queue since the oldest snapshot that somebody holds, so it is remembered for
a moment, or for as long as that is expensive.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable

from sqlalchemy import bindparam, select

from orchestrator.domain.states import JobState
from orchestrator.store.asking import Question
from orchestrator.store.conditions import in_state
from orchestrator.store.tables import jobs
from orchestrator.store.transaction import Transaction

#: Jobs of one batch, or of one submitter, in a turn, at most.
QUANTUM = 50
#: Submitters whose place is remembered; one that is forgotten begins at the head again.
_REMEMBERED = 10_000
#: Seconds that the turn of a queue is remembered: at least, at most, and as a multiple of what it
#: took to find it.
_FRESH_SECONDS = 0.25
_OLD_SECONDS = 5.0
_FRESH_FACTOR = 20

_HEAD = Question(
    select(jobs.c.turn)
    .where(in_state(JobState.QUEUED), jobs.c.queue == bindparam("queue"))
    .order_by(jobs.c.priority, jobs.c.turn, jobs.c.id)
    .limit(1)
)


class Turns:
    """The turns that queues are at, and the places of those who submit single jobs through this
    process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        #: (queue, submitter) to (turn, jobs given in it)
        self._places: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()
        #: queue to (turn, when it is looked for again)
        self._heads: dict[str, tuple[int, float]] = {}

    def heads(self, transaction: Transaction, queues: Iterable[str]) -> dict[str, int]:
        """The turns that workers are at in these queues."""
        wanted = set(queues)
        began = time.monotonic()
        old = sorted(one for one in wanted if self._heads.get(one, (0, 0.0))[1] < began)
        if old:
            found = transaction.ask(*(_HEAD(queue=queue) for queue in old))
            ended = time.monotonic()
            fresh = max(_FRESH_SECONDS, _FRESH_FACTOR * (ended - began))
            until = ended + min(_OLD_SECONDS, fresh)
            for queue, rows in zip(old, found, strict=True):
                self._heads[queue] = (rows[0]["turn"] if rows else 0, until)
        return {queue: self._heads[queue][0] for queue in wanted}

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
