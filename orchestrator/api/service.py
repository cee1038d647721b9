"""What all routes share: the database, the broker, the waiters, and the way in for jobs."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from sqlalchemy import select

from orchestrator import failpoints
from orchestrator.api.refusals import Refusals
from orchestrator.api.rendering import render
from orchestrator.api.waiters import Waiters
from orchestrator.domain.errors import Gone, Problem
from orchestrator.domain.states import EventKind, JobState
from orchestrator.jobs.finish import Finished
from orchestrator.jobs.notices import Notices
from orchestrator.jobs.queued import together
from orchestrator.jobs.submission import Accepted, PlannedJob, Submission
from orchestrator.jobs.submit import plan, submit_together
from orchestrator.jobs.turns import Turns
from orchestrator.jobs.views import View, accepted_view, batch_view, job_views
from orchestrator.jobs.wakeups import Wakeups
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.frozen import watching
from orchestrator.store.tables import events
from orchestrator.store.transaction import Transaction

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
        idle_seconds = settings.database.idle_seconds
        self.database = Database(
            settings.database_url,
            pool_size=settings.database.pool_size,
            idle_seconds=idle_seconds,
            known_schema=True,
        )
        # Where workers and schedulers are all frozen, clients are still to be served.
        self._frozen = watching(settings.database_url, idle_seconds)
        self.wakeups = Wakeups(settings.broker_url, settings.broker.prefix)
        self.notices = Notices(settings.broker_url, settings.broker.prefix)
        self.waiters = Waiters(
            self.database,
            settings.broker_url,
            settings.broker.prefix,
            render,
        )
        self._committer = _Committer(self.database, settings, self.wakeups)
        self.refusals = Refusals(self.write)

    async def submit(self, submission: Submission) -> Receipt:
        """Accept the submission, or raise the `Problem` that forbids it."""
        return await self._committer.submit(submission)

    def plan(self, submission: Submission) -> list[PlannedJob]:
        """What the submission would do; nothing is kept."""
        places = self.settings.transfer.places
        return self.database.transact(lambda transaction: plan(transaction, submission, places))

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run a reading function on one state of the database."""
        return self.database.look(work)

    def write(self, work: Callable[[Transaction], T]) -> T:
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
        self._frozen.close()
        self.database.close()


#: A submission, and who waits to hear of its fate.
_Entry = tuple[Submission, "asyncio.Future[Receipt]"]


class _Committer:
    """Commits submissions that arrive together in one transaction.

    Each is accepted or refused by itself. If the transaction as a whole is refused, each is
    tried alone.
    """

    def __init__(self, database: Database, settings: Settings, wakeups: Wakeups) -> None:
        self._database = database
        self._max_attempts = settings.retry.max_attempts
        self._places = settings.transfer.places
        self._wakeups = wakeups
        self._turns = Turns()
        self._arrived: SimpleQueue[_Entry | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="committer", daemon=True)
        self._thread.start()

    async def submit(self, submission: Submission) -> Receipt:
        """Hand over a submission and wait for its fate."""
        if submission.batch:
            # A batch is a group of its own; it need not hold up single jobs.
            [fate] = await asyncio.to_thread(self._commit, [submission])
            if isinstance(fate, Problem):
                raise fate
            return fate
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self._arrived.put((submission, future))
        return await future

    def close(self) -> None:
        """Commit what has arrived, and stop."""
        self._arrived.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._arrived.get()) is not None:
            group = [first]
            while len(group) < _MOST_TOGETHER and not self._arrived.empty():
                arrived = self._arrived.get()
                if arrived is None:
                    self._arrived.put(None)  # for the next round
                    break
                group.append(arrived)
            self._settle(group)

    def _settle(self, group: list[_Entry]) -> None:
        fates: Sequence[Receipt | BaseException]
        try:
            fates = self._commit([submission for submission, _ in group])
        except Exception as error:
            if len(group) > 1 and not isinstance(error, Problem):
                for entry in group:
                    self._settle([entry])
                return
            # The commit may have taken effect although its answer was lost: to submit again
            # is for the client to decide, which has a key for that.
            fates = [error] * len(group)
        _tell(group, fates)

    def _commit(self, submissions: Sequence[Submission]) -> list[Receipt | Problem]:
        """One transaction; the fate of each submission."""

        def work(
            transaction: Transaction,
        ) -> tuple[list[Receipt | Problem], list[Accepted | Problem]]:
            fates = submit_together(
                transaction,
                submissions,
                max_attempts=self._max_attempts,
                turns=self._turns,
                places=self._places,
            )
            return _receipts(transaction, fates), fates

        receipts, fates = self._database.transact(work)
        failpoints.reach("submit.after_commit")
        self._wakeups.send(together(*(fate.wake for fate in fates if isinstance(fate, Accepted))))
        return receipts


def _tell(group: Sequence[_Entry], fates: Sequence[Receipt | BaseException]) -> None:
    """Let those who wait know, each event loop with one call."""
    loops: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = defaultdict(list)
    for (_, future), fate in zip(group, fates, strict=True):
        loops[future.get_loop()].append(partial(_resolve, future, fate))
    for loop, calls in loops.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_call_all, calls)


def _call_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _resolve(future: asyncio.Future[Receipt], fate: Receipt | BaseException) -> None:
    if future.done():
        return  # the client has gone
    if isinstance(fate, BaseException):
        future.set_exception(fate)
    else:
        future.set_result(fate)


def _receipts(
    transaction: Transaction, fates: Sequence[Accepted | Problem]
) -> list[Receipt | Problem]:
    """What submitters are told. What is queued waits for nothing: to tell it, nothing is read."""
    stored = {
        row["id"]: accepted_view(row, intent, fate.depends_on.get(row["id"], []))
        for fate in fates
        if isinstance(fate, Accepted) and fate.batch_id is None
        for row, intent in zip(fate.rows, fate.intents, strict=True)
        if row["state"] == JobState.QUEUED
    }
    singles = [f.job_ids[0] for f in fates if isinstance(f, Accepted) and f.batch_id is None]
    unknown = [job_id for job_id in singles if job_id not in stored]
    views = {**stored, **(job_views(transaction, unknown) if unknown else {})}
    told: list[Receipt | Problem] = []
    for fate in fates:
        if isinstance(fate, Problem):
            told.append(fate)
        elif fate.batch_id is not None:
            view = {**batch_view(transaction, fate.batch_id), "job_ids": fate.job_ids}
            told.append(Receipt("batch", fate.batch_id, view, fate.repeated))
        elif (found := views.get(fate.job_ids[0])) is not None:
            told.append(Receipt("job", fate.job_ids[0], found, fate.repeated))
        else:
            told.append(_archived(transaction, fate.job_ids[0]))
    return told


_ENDS: dict[str, str] = {
    EventKind.JOB_SUCCEEDED: "succeeded",
    EventKind.JOB_FAILED: "failed",
    EventKind.JOB_CANCELED: "was canceled",
}


def _archived(transaction: Transaction, job_id: int) -> Problem:
    """What is told of a key whose job is no longer there to be answered."""
    how = transaction.execute(
        select(events.c.kind).where(events.c.job_id == job_id, events.c.kind.in_(_ENDS))
    ).scalar()
    ended = _ENDS.get(str(how), "has ended")
    return Gone(
        f"nothing was submitted: this key was first used for job {job_id}, which {ended} and was "
        "archived since",
        field="Idempotency-Key",
        job=job_id,
    )
