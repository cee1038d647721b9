"""The runner: claims work, has it done, writes the outcomes; in groups, until there is none."""

from __future__ import annotations

import time

import structlog

from orchestrator.domain.errors import Problem
from orchestrator.jobs.claim import MOST_CLAIMED, Claim, claim
from orchestrator.jobs.finish import Finished, Outcome, finish
from orchestrator.jobs.notices import Notices
from orchestrator.jobs.wakeups import CONTROL_QUEUE, Wakeups, backend_queue, host_queue
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from workers.execution.handlers import HANDLERS, WITHOUT_STORAGE
from workers.execution.work import Work, attempt
from workers.leases import Held, Leases
from workers.serving import Serving

log = structlog.get_logger(__name__)

#: Outcomes are written at least this often while a group is being worked on.
_WRITE_SECONDS = 0.25
#: Seconds between tries to write outcomes while the database is away.
_AGAIN_SECONDS = 1.0


class Runner:
    """What one worker process does with wake-ups. Its threads share it."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        serving: Serving,
        leases: Leases,
        wakeups: Wakeups,
        *,
        worker: str,
    ) -> None:
        self._settings = settings
        self._database = database
        self._serving = serving
        self._leases = leases
        self._wakeups = wakeups
        self._notices = Notices(settings.broker_url)
        self._worker = worker
        self.queues = [
            CONTROL_QUEUE,
            *(backend_queue(name) for name in serving.names.values()),
            host_queue(settings.host),
        ]

    def drain(self, queue: str) -> None:
        """Work on a queue until it is empty or the process is stopping."""
        while not self._leases.stopping.is_set():
            before = time.monotonic()
            claims = claim(
                self._database,
                worker=self._worker,
                queue=queue,
                backends=list(self._serving.drivers),
                lease_seconds=self._settings.worker.lease_seconds,
            )
            if not claims:
                return
            if len(claims) == MOST_CLAIMED or claims[-1].action.slow:
                # There may be more than one thread can do: call another.
                self._wakeups.send([queue])
            self._work_on(self._leases.hold(claims, before))

    def close(self) -> None:
        """Let go of the broker."""
        self._notices.close()

    def _work_on(self, held: list[Held]) -> None:
        ready: list[tuple[Held, Outcome]] = []
        written = time.monotonic()
        try:
            for one in held:
                outcome = self._attempt(one)
                if outcome is not None:
                    ready.append((one, outcome))
                if time.monotonic() - written >= _WRITE_SECONDS:
                    self._write(ready)
                    ready, written = [], time.monotonic()
            self._write(ready)
        finally:
            self._leases.drop(held)

    def _attempt(self, held: Held) -> Outcome | None:
        one = held.claim
        self._leases.begin(held)
        structlog.contextvars.bind_contextvars(job=one.job_id, action=one.action.name)
        try:
            driver = self._serving.drivers[one.backend_id]
            work = Work(held, driver, self._database, self._leases, self._settings.host)
            outcome = attempt(
                work,
                HANDLERS[one.action.name],
                self._settings.retry,
                storage=one.action.name not in WITHOUT_STORAGE,
            )
            self._log(one, outcome)
            return outcome
        finally:
            structlog.contextvars.clear_contextvars()

    def _log(self, one: Claim, outcome: Outcome | None) -> None:
        if outcome is None:
            log.warning("job.lease_lost", attempt=one.attempt)
        elif outcome.problem is not None:
            log.warning(f"job.{outcome.ending}", attempt=one.attempt, why=outcome.problem.detail)
        else:
            log.debug(f"job.{outcome.ending}", attempt=one.attempt)

    def _write(self, ready: list[tuple[Held, Outcome]]) -> None:
        """Write outcomes; while the database is away, as long as the leases are ours."""
        if not ready:
            return
        outcomes = [(one.claim, outcome) for one, outcome in ready]
        while True:
            try:
                finished = self._database.transact(lambda connection: finish(connection, outcomes))
                break
            except Problem as problem:
                until = max(one.lease_until for one, _ in ready)
                if not problem.retryable or time.monotonic() >= until:
                    # Whoever takes these up asks the backend what is there.
                    log.error("outcomes.not_written", jobs=len(ready), why=problem.detail)
                    return
                time.sleep(_AGAIN_SECONDS)
        self._leases.drop([one for one, _ in ready])
        self._tell(finished)

    def _tell(self, finished: Finished) -> None:
        if finished.lost:
            log.warning("outcomes.lease_lost", jobs=finished.lost)
        self._notices.ended(finished.ended_jobs, finished.ended_batches)
        self._wakeups.send(finished.wake)
