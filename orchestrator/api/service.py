"""What all routes share: the database, the broker, the waiters, and the way in for jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import Connection

from orchestrator import failpoints
from orchestrator.api import models
from orchestrator.api.waiters import Waiters
from orchestrator.domain.errors import Gone, Problem, UnknownJob
from orchestrator.jobs.finish import Finished
from orchestrator.jobs.notices import Notices
from orchestrator.jobs.submission import Accepted, PlannedJob, Submission
from orchestrator.jobs.submit import plan, submit
from orchestrator.jobs.views import View, accepted_view, batch_view, job_view
from orchestrator.jobs.wakeups import Wakeups, celery_app
from orchestrator.settings import Settings
from orchestrator.store.database import Database

T = TypeVar("T")

#: Submissions that are committed together, at most.
_MOST_TOGETHER = 64


@dataclass(frozen=True)
class Receipt:
    """What a submitter is told: the batch, or the one job."""

    kind: str
    id: int
    view: View
    repeated: bool


class Service:
    """One API process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database_url, pool_size=settings.database.pool_size)
        self.wakeups = Wakeups(celery_app(settings.broker_url))
        self.notices = Notices(settings.broker_url)
        self.waiters = Waiters(
            self.database,
            settings.broker_url,
            lambda kind, view: models.render(models.MODELS[kind], view),
        )
        self._committer = _Committer(self.database, settings.retry.max_attempts, self.wakeups)

    def submit(self, submission: Submission) -> Receipt:
        """Accept the submission, or raise the `Problem` that forbids it."""
        return self._committer.submit(submission)

    def plan(self, submission: Submission) -> list[PlannedJob]:
        """What the submission would do; nothing is kept."""
        return self.database.transact(lambda connection: plan(connection, submission))

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run a reading function on one state of the database."""
        with self.database.read() as connection:
            return work(connection)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run a changing function in one transaction."""
        return self.database.transact(work)

    def finished(self, finished: Finished) -> None:
        """Tell others what the end of jobs has set off; after its commit."""
        self.wakeups.send(finished.wake)
        self.notices.ended(finished.ended_jobs, finished.ended_batches)

    def close(self) -> None:
        """Finish what is being committed, and let go of everything."""
        self._committer.close()
        self.wakeups.close()
        self.notices.close()
        self.database.close()


class _Committer:
    """Commits submissions that arrive together in one transaction.

    Each is accepted or refused by itself: a refused one has changed nothing yet when its
    checks raise. If the transaction as a whole is refused, each is tried alone.
    """

    def __init__(self, database: Database, max_attempts: int, wakeups: Wakeups) -> None:
        self._database = database
        self._max_attempts = max_attempts
        self._wakeups = wakeups
        self._arrived: SimpleQueue[tuple[Submission, Future[Receipt]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    def submit(self, submission: Submission) -> Receipt:
        """Hand over a submission and wait for its fate."""
        if submission.batch:
            # A batch is a group of its own; it need not hold up single jobs.
            return self._commit([submission])[0]()
        future: Future[Receipt] = Future()
        self._arrived.put((submission, future))
        return future.result()

    def close(self) -> None:
        """Commit what has arrived, and stop."""
        self._arrived.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            first = self._arrived.get()
            if first is None:
                return
            group = [first]
            stopping = False
            while len(group) < _MOST_TOGETHER and not self._arrived.empty():
                arrived = self._arrived.get()
                if arrived is None:
                    stopping = True
                    break
                group.append(arrived)
            self._settle(group)
            if stopping:
                return

    def _settle(self, group: list[tuple[Submission, Future[Receipt]]]) -> None:
        try:
            fates = self._commit([submission for submission, _ in group])
        except Exception as error:
            if len(group) == 1 or isinstance(error, Problem):
                # The commit may have taken effect although its answer was lost: to submit
                # again is for the client to decide, which has a key for that.
                for _, future in group:
                    future.set_exception(error)
                return
            for entry in group:
                self._settle([entry])
            return
        for (_, future), fate in zip(group, fates, strict=True):
            try:
                future.set_result(fate())
            except Problem as problem:
                future.set_exception(problem)

    def _commit(self, submissions: list[Submission]) -> list[Callable[[], Receipt]]:
        """One transaction; for each submission a function that returns or raises its fate."""

        def work(connection: Connection) -> list[tuple[Receipt, dict[str, int]] | Problem]:
            fates: list[tuple[Receipt, dict[str, int]] | Problem] = []
            for submission in submissions:
                try:
                    accepted = submit(connection, submission, max_attempts=self._max_attempts)
                    fates.append((_receipt(connection, accepted), accepted.wake))
                except Problem as problem:
                    if problem.retryable:
                        raise
                    fates.append(problem)
            return fates

        told: list[Callable[[], Receipt]] = []
        committed = self._database.transact(work)
        failpoints.reach("submit.after_commit")
        for fate in committed:
            if isinstance(fate, Problem):
                told.append(_raiser(fate))
                continue
            receipt, wake = fate
            self._wakeups.send(wake)
            told.append(lambda receipt=receipt: receipt)  # type: ignore[misc]
        return told


def _raiser(problem: Problem) -> Callable[[], Receipt]:
    def fate() -> Receipt:
        raise problem

    return fate


@contextmanager
def naming_archived() -> Iterator[None]:
    """A key may outlive its job, where retention says so."""
    try:
        yield
    except UnknownJob as problem:
        raise Gone(
            "the job that this key was first used for has been deleted by retention: use a new key",
            field="Idempotency-Key",
        ) from problem


def _receipt(connection: Connection, accepted: Accepted) -> Receipt:
    if accepted.batch_id is not None:
        view: dict[str, Any] = {
            **batch_view(connection, accepted.batch_id),
            "job_ids": accepted.job_ids,
        }
        return Receipt("batch", accepted.batch_id, view, accepted.repeated)
    [job_id] = accepted.job_ids
    if accepted.repeated:
        with naming_archived():
            view = job_view(connection, job_id)
    else:
        [row] = accepted.rows
        backend = accepted.backends[row["backend_id"]]
        view = accepted_view(connection, row, backend, accepted.depends_on.get(job_id, []))
    return Receipt("job", job_id, view, accepted.repeated)
