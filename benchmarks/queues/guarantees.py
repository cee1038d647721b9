"""What each queue of the comparison guarantees, and how it was run here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Guarantees:
    """One queue, as its documentation and its code have it."""

    name: str
    #: How its jobs were submitted, and its workers run.
    run: str
    broker_lost: str
    worker_dies: str
    twice: str
    order: str
    resubmit: str


#: By the name of the readings.
GUARANTEES: dict[str, Guarantees] = {
    "this, one batch": Guarantees(
        name="this product, one batch",
        run="over HTTP; each job also records a volume, and four events of history",
        broker_lost="nothing: jobs are rows",
        worker_dies="another worker takes the job up once its lease is over (30 s)",
        twice="takes effect once: claims are numbered, storage is asked what is there",
        order="of submission, for each volume",
        resubmit="yes: the first answer, for seven days (`Idempotency-Key`)",
    ),
    "this, 64 clients": Guarantees(
        name="this product, 64 clients, a job each",
        run="over HTTP, each client waiting for its job before the next",
        broker_lost="as above",
        worker_dies="as above",
        twice="as above",
        order="as above",
        resubmit="as above",
    ),
    "celery": Guarantees(
        name="Celery on Redis",
        run="`delay` in a loop, then `get`; default settings, prefork",
        broker_lost="all that had not ended, unless Redis itself keeps it on disk",
        worker_dies=(
            "what it ran is lost (acknowledged before it runs); what it had only fetched is "
            "delivered again after the visibility timeout (an hour)"
        ),
        twice="for the task to see to",
        order="none",
        resubmit="no",
    ),
    "celery, acks_late": Guarantees(
        name="Celery on Redis, `acks_late`",
        run="the same with `task_acks_late`",
        broker_lost="all that had not ended, unless Redis itself keeps it on disk",
        worker_dies=(
            "delivered again after the visibility timeout (an hour); lost where only the pool's "
            "child was killed, unless `task_reject_on_worker_lost`"
        ),
        twice="for the task to see to",
        order="none",
        resubmit="no",
    ),
    "procrastinate": Guarantees(
        name="procrastinate on PostgreSQL",
        run="`batch_defer`; two workers with concurrency 10",
        broker_lost="there is none: jobs are rows",
        worker_dies="stays `doing` until a task that you write retries stalled jobs",
        twice="for the task to see to",
        order="of submission by priority, for jobs given the same `lock`",
        resubmit="partly: `queueing_lock` refuses a second job while the first waits",
    ),
    "pgqueuer": Guarantees(
        name="PgQueuer on PostgreSQL",
        run="`enqueue` of all in one call; two workers with batches of 100, durable tables",
        broker_lost="there is none: jobs are rows",
        worker_dies="picked again once its heartbeat is old (30 s)",
        twice="for the task to see to",
        order="none for each object; a kind of job can be limited to one at a time",
        resubmit="partly: `dedupe_key` refuses a second job while the first waits or runs",
    ),
    "dramatiq": Guarantees(
        name="dramatiq on Redis",
        run="`send` in a loop; two processes with eight threads",
        broker_lost="all that had not ended, unless Redis itself keeps it on disk",
        worker_dies="queued again once its heartbeat is old (a minute)",
        twice="for the task to see to",
        order="none",
        resubmit="no",
    ),
}
