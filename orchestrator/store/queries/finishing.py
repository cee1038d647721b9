"""Queries about jobs that end: their outcomes, and what they held."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from orchestrator.store.asking import Query
from orchestrator.store.queries.lanes import JobId


class HeldJob(NamedTuple):
    """A job that is locked, and the time by then."""

    id: int
    state: str
    fence: int | None
    cancel_requested_at: datetime | None
    worker: str | None
    promised_bytes: int
    now: datetime


class Dependent(NamedTuple):
    """A job that depends on another."""

    job_id: int
    depends_on: int


class CountedBatch(NamedTuple):
    """A batch, and when its last job ended; None while there are others."""

    id: int
    finished_at: datetime | None


@dataclass(frozen=True)
class HoldJobs(Query[HeldJob]):
    """These jobs, whatever their state.

    Invariant: they are locked in the order of their ids, before anything else is touched; from then
    on nobody can begin to wait for them.
    """

    ids: list[int]


@dataclass(frozen=True)
class Dependents(Query[Dependent]):
    """The jobs that depend on these."""

    ids: list[int]


@dataclass(frozen=True)
class OthersInLanes(Query[JobId]):
    """A job in one of these lanes that is none of these jobs, if there is one."""

    lanes: list[str]
    ids: list[int]


@dataclass(frozen=True)
class CloseJournals(Query[None]):
    """Mark every step of these jobs as done."""

    ids: list[int]


@dataclass(frozen=True)
class ReleaseLanes(Query[None]):
    """Take these jobs out of their lanes.

    Invariant: in the transaction that ends them, so a lane is free once its job has ended.
    """

    ids: list[int]


@dataclass(frozen=True)
class CountEnded(Query[CountedBatch]):
    """Count ended jobs in their batch.

    Invariant: a batch is finished from the moment when as many have ended as it has. Several are
    counted in the order of their ids: no two transactions wait for one another.
    """

    batch_id: int
    succeeded: int
    failed: int
    canceled: int
    now: datetime


@dataclass(frozen=True)
class AddPromised(Query[None]):
    """Add to what a backend has promised; ``bytes`` may be negative.

    Invariant: the sum is never above ``most``, if that is given: the database refuses. The row
    stays locked until the transaction ends: nothing may follow but its commit, and several
    backends come in the order of their ids.
    """

    backend_id: int
    bytes: int
    most: int | None
