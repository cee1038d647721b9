"""How much each experiment does: in full, or a little of it to try things out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Counts of one run."""

    #: Rounds; each figure is the median over them.
    rounds: int = 3
    #: Jobs in a batch, and tasks of Celery beside it.
    batch: int = 10_000
    #: Single jobs a round, one after the other.
    singles: int = 400
    #: Creates a round on Debian's PostgreSQL, one after the other.
    creates: int = 50
    #: First batches on a fresh database, and as many that they are compared with.
    fresh: int = 10
    #: Seconds that an auditor's transaction has been open, with both sides at work, before the
    #: sides are compared.
    auditor: int = 600
    #: Clients at once, and jobs of each in a round.
    clients: int = 64
    jobs_of_client: int = 40
    #: Volumes of the file driver.
    files: int = 1_000
    #: Runs of Ganeti's attach, and starts of Python.
    starts: int = 50
    #: Requests that wait for one job.
    waiters: int = 1_000
    #: Jobs on one volume, volumes with one job each; batches before the first look at memory,
    #: and between that and the second.
    lane: int = 10_000
    volumes: int = 100_000
    batches_before_memory: int = 5
    batches_for_memory: int = 10
    #: Finished jobs in the database that has a history; each has five events on average.
    history: int = 1_000_000
    #: Rounds where the difference looked for is small: between two products side by side.
    fine_rounds: int = 7
    #: Volumes of an installation that has many (an even number), with five snapshots and ten
    #: events each; jobs of the batch that is planned there; events that are verified.
    fleet: int = 1_000_000
    planned: int = 100_000
    verified: int = 1_000_000
    #: Jobs that are archived there.
    archived: int = 10_000
    #: Times each page of a list is asked for.
    pages: int = 20
    #: Seconds that the product is looked at while it has nothing to do.
    rest: int = 60
    #: Jobs a round given to the queues that are compared.
    queued: int = 10_000


FULL = Sizes()

QUICK = Sizes(
    rounds=1,
    batch=2_000,
    singles=60,
    fresh=2,
    auditor=10,
    jobs_of_client=8,
    files=200,
    starts=10,
    waiters=200,
    lane=500,
    volumes=5_000,
    batches_before_memory=2,
    batches_for_memory=2,
    history=20_000,
    fine_rounds=2,
    fleet=2_000,
    planned=1_000,
    verified=5_000,
    archived=1_000,
    pages=5,
    rest=5,
    queued=1_000,
)
