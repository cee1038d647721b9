"""Slots: how many threads of a process may work on one queue at a time, and on what."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """A thread's leave to work on a queue."""

    #: False for the last slot that is free: it is kept for jobs that are soon done.
    may_be_slow: bool


class Slots:
    """The slots of one queue. With a single one, it takes any job."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._used = 0
        self._guard = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[Slot | None]:
        """Use a slot; None if all are in use."""
        with self._guard:
            free = self._count - self._used
            slot = Slot(free > 1 or self._count == 1) if free else None
            self._used += slot is not None
        try:
            yield slot
        finally:
            if slot is not None:
                with self._guard:
                    self._used -= 1
