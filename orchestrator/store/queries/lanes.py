"""Queries about lanes: who waits for whom."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from orchestrator.store.asking import Query


class Locked(NamedTuple):
    """How many stripes were locked, and the time by then."""

    held: int
    now: datetime


class Head(NamedTuple):
    """A job of a lane; None where there is no such job."""

    head: int | None


class JobId(NamedTuple):
    """A job."""

    id: int


class QueuedJob(NamedTuple):
    """A job that was queued."""

    queue: str
    id: int


@dataclass(frozen=True)
class LockStripes(Query[Locked]):
    """Wait until no other transaction holds these stripes, and hold them until this one ends.

    Invariant: all wait in the order of the stripes, so no two wait for one another.
    """

    kind: int
    stripes: list[int]


@dataclass(frozen=True)
class Heads(Query[Head]):
    """The first job of each lane that blocks others: begun, or its time has come."""

    lanes: list[str]


@dataclass(frozen=True)
class Tails(Query[Head]):
    """The newest job of each lane that blocks others."""

    lanes: list[str]


@dataclass(frozen=True)
class HoldUnfinished(Query[JobId]):
    """Those of these jobs that have not ended, kept from ending before this transaction.

    Invariant: jobs are locked in the order of their ids. Claims and heartbeats are not held up.
    """

    ids: list[int]


@dataclass(frozen=True)
class LockWaiting(Query[JobId]):
    """Those of these jobs that wait, locked in the order of their ids."""

    ids: list[int]


@dataclass(frozen=True)
class Promote(Query[QueuedJob]):
    """Queue those of these waiting jobs that nothing stands in the way of: time, dependency, lane.

    Invariant: a job goes to ``queued`` from ``waiting`` only while no other has begun in its
    lanes and no earlier one blocks them, or if it has begun itself. The jobs are locked by now, so
    what any concurrent ending has committed is seen.
    """

    ids: list[int]
