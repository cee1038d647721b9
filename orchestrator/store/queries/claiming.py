"""Queries of workers: jobs are claimed, and their leases renewed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypedDict

from orchestrator.store.asking import Query
from orchestrator.store.queries.lanes import JobId
from orchestrator.store.queries.loading import LiveVolume


class ClaimedJob(TypedDict):
    """A job just claimed."""

    id: int
    action: str
    backend_id: int
    volume: str | None
    snapshot: str | None
    host: str | None
    params: dict[str, Any]
    volume_id: str | None
    snapshot_id: str | None
    account: str | None
    fence: int
    #: Of each further target its role, kind, id and name; null or empty for most.
    targets: list[list[Any]] | None
    attempt: int
    max_attempts: int
    batch_id: int | None
    submitted_by: str
    reason: str | None
    queue: str
    cancel_requested_at: datetime | None
    claims: int
    now: datetime
    #: How many jobs could have been claimed, as far as that was counted.
    seen: int
    #: Of no meaning.
    noted: str | None


class RunningJob(NamedTuple):
    """A job that runs."""

    id: int
    fence: int
    cancel_requested_at: datetime | None


class QueueWithJobs(NamedTuple):
    """A queue that has work."""

    queue: str


@dataclass(frozen=True)
class QueuesWithJobs(Query[QueueWithJobs]):
    """Those of these queues that have queued jobs, whoever may claim them."""

    queues: list[str]


@dataclass(frozen=True)
class NextJobs(Query[JobId]):
    """The queued jobs of a queue and these backends that come next, by priority and turn.

    ``most`` of them; no ``slow`` ones unless wanted. Jobs on backends that take no new work are
    left, unless the queue is ``control``. Nothing is locked: they are what `ClaimJobs` may try.
    """

    queue: str
    control: str
    backends: list[int]
    most: int
    budget: int
    slow: bool


@dataclass(frozen=True)
class ClaimJobs(Query[ClaimedJob]):
    """Take at most ``most`` of these jobs that are queued, by priority and turn: of this queue and
    these backends.

    As many as their costs fit into ``budget``, at least one; no ``slow`` ones unless wanted. Jobs
    on backends that take no new work are left, unless the queue is ``control``. The lease lasts
    ``lease`` seconds.

    Invariant: a job goes to ``running`` only from ``queued``, in one step with its new fencing
    number, which is larger than any given before, and with its lease; its lanes become begun in
    the same transaction (`BeginLanes`), which a unique index allows to one job at a time. A job
    may be claimed again after its last attempt, to find out what that has left. A job that was
    claimed before is claimed alone: if it is what kills workers, it takes no others of a group
    with it.
    """

    ids: list[int]
    worker: str
    queue: str
    control: str
    backends: list[int]
    most: int
    budget: int
    lease: float
    slow: bool


@dataclass(frozen=True)
class VolumesClaimed(Query[LiveVolume]):
    """The volumes, on these backends, of the names that the jobs just claimed are about.

    Asked along with `ClaimJobs`, which claims at most ``most``, in the same transaction.
    """

    backends: list[int]
    most: int


@dataclass(frozen=True)
class BeginLanes(Query[None]):
    """Mark the lanes of these jobs as begun.

    Invariant: a unique index allows one begun row a lane; of two claims for one lane, one fails.
    """

    ids: list[int]


@dataclass(frozen=True)
class LockRunning(Query[JobId]):
    """Those of these jobs that run, locked, without any that another transaction holds."""

    ids: list[int]


@dataclass(frozen=True)
class RunningJobs(Query[RunningJob]):
    """Those of these jobs that run."""

    ids: list[int]


@dataclass(frozen=True)
class RenewLeases(Query[None]):
    """Have the leases of these jobs last ``seconds`` from now, by the database's clock.

    Invariant: they are locked (`LockRunning`) and under the fencing numbers that their worker has.
    """

    ids: list[int]
    seconds: float


@dataclass(frozen=True)
class SeeWorker(Query[None]):
    """Note that a worker process is alive now, and which queues (a list, as JSON) it serves."""

    worker: str
    host: str
    pid: int
    boot_id: str | None
    queues: str
