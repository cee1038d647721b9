"""Hints: which jobs of a queue a worker process tries to claim next.

To find the next jobs of a queue is to walk over its index, and over all that has left the queue
since the oldest snapshot that somebody holds (a report, a dump). So the process looks for many jobs
at once, and claims them by their ids; jobs that a wake-up names it claims without looking.

Hints are what they are called: each may be gone, and a claim checks everything about it. They are
at most a quarter of a second old, or as old as they are expensive, so that jobs of a higher
priority come next. A process that has done nothing since its last look knows the queue to be empty
but for jobs that wake-ups name: any other was named to another process, or will be to this one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.jobs.claim import MOST_CLAIMED

#: Jobs that are looked for at once.
LOOKED_FOR = 4_000
#: The most that a claim is given: others may have taken as many as it can take.
_MOST_TRIED = 2 * MOST_CLAIMED
_FEWEST_TRIED = 8
#: Seconds after which they are looked for again: at least, at most, and as a multiple of what it
#: took to find them.
_FRESH_SECONDS = 0.25
_OLD_SECONDS = 5.0
_FRESH_FACTOR = 20
#: Jobs named by wake-ups that are kept; of more, the queue is looked at.
_MOST_NAMED = 1_000


@dataclass(frozen=True)
class Tried:
    """Jobs that a claim is given."""

    ids: list[int]
    #: Whether they were looked for just now.
    fresh: bool


class Hints:
    """Those of one queue. The threads of a process share them; each is given to one of them."""

    def __init__(self, look: Callable[[int], Sequence[int]]) -> None:
        """``look``: finds that many of the queue's next jobs, in their order."""
        self._look = look
        self._guard = threading.Lock()
        self._looking = threading.Lock()
        #: Named by wake-ups.
        self._named: list[int] = []
        self._next: deque[int] = deque()
        #: The queue may have jobs that are neither.
        self._more = True
        #: Something was claimed since the last look: meanwhile, others may have come.
        self._worked = True
        self._old_at = 0.0
        self._most = _MOST_TRIED

    def add(self, jobs: Sequence[int] | None) -> None:
        """There are these jobs in the queue; None: there may be any."""
        with self._guard:
            if jobs is None or len(self._named) + len(jobs) > _MOST_NAMED:
                self._more = True
            else:
                self._named += jobs

    def take(self) -> Tried:
        """What to claim next; no jobs if the queue is empty, as far as is known."""
        with self._guard:
            if not self._need_a_look():
                return Tried(self._pop(), fresh=False)
        with self._looking:
            with self._guard:
                # Another thread may have looked meanwhile.
                if not self._need_a_look():
                    return Tried(self._pop(), fresh=False)
                self._more = self._worked = False
            began = time.monotonic()
            try:
                found = self._look(LOOKED_FOR)
            except BaseException:
                self.add(None)
                raise
            ended = time.monotonic()
            with self._guard:
                self._next = deque(found)
                self._more |= len(found) == LOOKED_FOR
                fresh = max(_FRESH_SECONDS, _FRESH_FACTOR * (ended - began))
                self._old_at = ended + min(_OLD_SECONDS, fresh)
                return Tried(self._pop(), fresh=True)

    def claimed(self, tried: Tried, claimed: Sequence[int], *, more: bool) -> bool:
        """Note what of them was claimed, and whether a claim would have taken ``more`` of them if
        it could; whether the queue may have more."""
        with self._guard:
            if claimed:
                self._worked = True
                self._most = max(_FEWEST_TRIED, min(_MOST_TRIED, 4 * len(claimed)))
            if more:
                # Those behind the last one; of those before it, most are taken by others.
                taken = set(claimed)
                last = max(place for place, one in enumerate(tried.ids) if one in taken)
                self._next.extendleft(reversed(tried.ids[last + 1 :]))
                self._more = True
            return bool(self._named or self._next or self._more)

    @property
    def old(self) -> bool:
        """Whether others may have come since the last look, while jobs were done."""
        with self._guard:
            return self._worked and time.monotonic() > self._old_at

    def _need_a_look(self) -> bool:
        if not self._named and not self._next:
            return self._more
        return (self._worked or bool(self._next)) and time.monotonic() > self._old_at

    def _pop(self) -> list[int]:
        known, self._named = self._named, []
        while self._next and len(known) < self._most:
            known.append(self._next.popleft())
        return known
