"""The runner: claims work, has it done, writes the outcomes; in groups, until there is none."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import structlog

from orchestrator import failpoints
from orchestrator.domain.errors import InternalError, Outage, Unavailable
from orchestrator.domain.queues import CONTROL_QUEUE, backend_queue, host_queue
from orchestrator.domain.states import Ending
from orchestrator.domain.targets import KINDS
from orchestrator.jobs.claim import Claim, claim, next_jobs
from orchestrator.jobs.finish import Outcome, finish
from orchestrator.jobs.notices import Notices
from orchestrator.jobs.queued import Wake, together, unnamed
from orchestrator.resources.changes import Change
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.queries.claiming import QueuesWithJobs
from orchestrator.store.verdicts import is_of_the_rows
from workers.actions.registry import HANDLERS
from workers.execution.attempt import attempt
from workers.execution.ending import HANDED_BACK, unseen_after
from workers.execution.hooks import Hooks
from workers.execution.work import Here, Work
from workers.hints import Hints
from workers.leases import Leases, RunningJob
from workers.serving import Serving
from workers.slots import Slots

log = structlog.get_logger(__name__)

#: A job may wait this long in a group behind another that takes its time.
_PATIENCE_SECONDS = 5.0
#: Seconds between tries to write outcomes while the database is away.
_AGAIN_SECONDS = 1.0


#: Endings of attempts after which a job only waits.
_WAITING = (Ending.OUTAGE, Ending.LIMITED, Ending.HANDED_BACK)


class _NotStored(InternalError):
    """What the job achieved could not be recorded: look at the storage, and at the log."""


class _Group:
    """Claimed jobs that one thread does, one after the other."""

    def __init__(self, held: list[RunningJob]) -> None:
        self._left = deque(held)
        self._guard = threading.Lock()
        #: When the job that is being done was begun.
        self.taken_at = time.monotonic()

    def take(self) -> RunningJob | None:
        """The next job; None when there is none left."""
        with self._guard:
            self.taken_at = time.monotonic()
            return self._left.popleft() if self._left else None

    def give_up(self) -> list[RunningJob]:
        """The jobs that were not begun; they are no longer the group's."""
        with self._guard:
            left = list(self._left)
            self._left.clear()
            return left


class SendsWakeups(Protocol):
    """What `Wakeups` does for a runner."""

    def send(self, wake: Wake) -> None:
        """Ask for wake-ups for what was queued."""


class SendsNotices(Protocol):
    """What `Notices` does for a runner."""

    def ended(self, jobs: Sequence[int], batches: Sequence[int]) -> None:
        """Tell that these have ended."""

    def close(self) -> None:
        """Let go of the broker."""


class Runner:
    """What one worker process does with wake-ups. Its threads share it."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        serving: Serving,
        leases: Leases,
        wakeups: SendsWakeups,
        notices: SendsNotices | None = None,
        *,
        worker: str,
    ) -> None:
        """``notices``: who is told of ends; those who listen to the broker, if None."""
        self._settings = settings
        self._database = database
        self._serving = serving
        self._leases = leases
        self._wakeups = wakeups
        self._notices = notices or Notices(settings.broker_url, settings.broker.prefix)
        self._hooks = Hooks(settings.hooks)
        self._here = Here(
            host=settings.host,
            database=database,
            leases=leases,
            storage=serving.leases,
            drivers=serving.drivers,
            intervals={id_: settings.backends[n].intervals for id_, n in serving.names.items()},
            transfer=settings.transfer,
            audit=settings.audit,
            away=serving.away,
        )
        self._worker = worker
        self._guard = threading.Lock()
        self._groups: list[_Group] = []
        self._ready: list[tuple[RunningJob, Outcome]] = []
        self.queues = [
            CONTROL_QUEUE,
            *(backend_queue(name) for name in serving.names.values()),
            host_queue(settings.host),
        ]
        self._slots = {name: Slots(settings.worker.threads) for name in self.queues}
        self._hints = {name: Hints(partial(self._look, name)) for name in self.queues}
        #: Queues whose wake-ups were read here in vain.
        self._not_for_us: set[str] = set()

    def wake(self, queue: str, jobs: Sequence[int] | None = None) -> None:
        """Do what a wake-up asks for; one that this process has no room for is for another.

        ``jobs``: those that it names.
        """
        if not self.drain(queue, jobs):
            with self._guard:
                self._not_for_us.add(queue)

    def look(self) -> None:
        """Work on the queues that have something to do, whether a message came or not."""
        with self._database.read() as transaction:
            [found] = transaction.ask(QueuesWithJobs(self.queues))
        for row in found:
            self.drain(row.queue)

    def pass_on(self) -> None:
        """Send again what was read in vain, from time to time: at once would be too often."""
        with self._guard:
            queues, self._not_for_us = self._not_for_us, set()
        self._wakeups.send(unnamed(queues))

    def drain(self, queue: str, jobs: Sequence[int] | None = None) -> bool:
        """Work on a queue until it is empty or the process is stopping.

        ``jobs``: ids of what has come into it, if that is known. False if there may be work left
        that this process has no slot for.

        Each queue has its own threads, so that a backend that hangs holds up no other; the
        last of them takes no slow jobs, so that quick ones need not wait for those to end.
        """
        slots = self._slots[queue]
        self._hints[queue].add(jobs)
        while not self._leases.stopping.is_set():
            with slots.one() as slot:
                if slot is None:
                    return False
                if not self._drain_once(queue, slow=slot.may_be_slow):
                    return slot.may_be_slow
        return True

    def _drain_once(self, queue: str, *, slow: bool) -> bool:
        """Claim a group and do it; whether there may be more."""
        hints, at_once = self._hints[queue], self._serving.max_jobs(queue)
        # A thread that is kept for quick jobs looks for those.
        tried = hints.take() if slow else None
        if tried is not None and not tried.ids:
            return False
        before = time.monotonic()
        claims = claim(
            self._database,
            worker=self._worker,
            queue=queue,
            backends=self._serving.ids_for(queue),
            lease_seconds=self._settings.worker.lease_seconds,
            slow=slow,
            at_once=at_once,
            jobs=None if tried is None else tried.ids,
        )
        more = claims.more
        if tried is not None:
            more = hints.claimed(tried, [one.job_id for one in claims], more=more)
        if not claims:
            if at_once is not None:
                # They wait for a place: whoever gives one back looks for them.
                hints.add(None)
            return more and at_once is None and tried is not None and not tried.fresh
        for one in claims:
            failpoints.reach("claim.after_commit", action=one.action.name)
        if more:
            # There is more than this thread can do now: call another.
            self._wakeups.send(unnamed([queue]))
        freed = dict(self._work_on(self._leases.hold(claims, before)))
        if own := freed.pop(queue, None):
            hints.add(own.ids)
        self._wakeups.send(freed)
        return more or own is not None or hints.old

    def _look(self, queue: str, most: int) -> Sequence[int]:
        """The next jobs of a queue."""
        backends = self._serving.ids_for(queue)
        if not backends:
            return []
        with self._database.read() as transaction:
            return next_jobs(transaction, queue=queue, backends=backends, most=most)

    def close(self) -> None:
        """Let go of the broker."""
        self._notices.close()

    def _work_on(self, held: list[RunningJob]) -> Wake:
        """Do these jobs; what can run now that could not before."""
        group = _Group(held)
        with self._guard:
            self._groups.append(group)
        try:
            while (one := group.take()) is not None:
                outcome = self._attempt(one)
                if outcome is None:
                    self._leases.drop([one])
                else:
                    self._keep([(one, outcome)])
        finally:
            with self._guard:
                self._groups.remove(group)
            freed = self._write_ready()
        return freed

    def write_ready(self) -> None:
        """Write the outcomes there are, from time to time: they do not wait for their group."""
        self._wakeups.send(self._write_ready())

    def _write_ready(self) -> Wake:
        """Write the outcomes there are; what was queued."""
        with self._guard:
            ready, self._ready = self._ready, []
        try:
            return self._write(ready)
        finally:
            # Whatever became of them: what is not written is no longer ours to keep alive.
            self._leases.drop([one for one, _ in ready])

    def hand_back_held_up(self) -> None:
        """Give jobs back that wait in a group behind one that takes long: others can do them."""
        now = time.monotonic()
        with self._guard:
            slow = [group for group in self._groups if now - group.taken_at > _PATIENCE_SECONDS]
        for group in slow:
            left = group.give_up()
            self._keep([(one, HANDED_BACK) for one in left])

    def _keep(self, outcomes: list[tuple[RunningJob, Outcome]]) -> None:
        with self._guard:
            self._ready += outcomes

    def _attempt(self, held: RunningJob) -> Outcome | None:
        one = held.claim
        self._leases.begin(held)
        structlog.contextvars.bind_contextvars(**_named(one))
        try:
            outcome = attempt(
                Work(held, self._here),
                HANDLERS[one.action.name],
                self._settings.retry,
                self._hooks,
            )
            self._log(one, outcome)
            if outcome is not None and isinstance(outcome.problem, Outage):
                source = one.source_backend
                self._serving.suspect([one.backend_id, *([source.id] if source else [])])
            return outcome
        except Exception:
            # Not the job's own failure, which `attempt` has told: its lease runs out.
            log.exception("job.attempt_broke")
            return None
        finally:
            structlog.contextvars.clear_contextvars()

    def _log(self, one: Claim, outcome: Outcome | None) -> None:
        if outcome is None:
            log.warning("job.lease_lost", attempt=one.attempt)
        elif outcome.ending in _WAITING:
            # What it waits for is told once, and not with each job.
            why = outcome.problem.detail if outcome.problem is not None else None
            log.debug(f"job.{outcome.ending}", attempt=one.attempt, why=why)
        elif outcome.problem is not None:
            log.warning(f"job.{outcome.ending}", attempt=one.attempt, why=outcome.problem.detail)

    def _write(self, ready: list[tuple[RunningJob, Outcome]]) -> Wake:
        """Write outcomes; while the database is away, as long as the leases are ours."""
        if not ready:
            return {}
        outcomes = [(one.claim, outcome) for one, outcome in ready]
        # Leases are renewed meanwhile: what a database that is there refuses has an end.
        refused_until = max(one.lease_until for one, _ in ready)
        while True:
            try:
                finished = self._database.transact(
                    lambda transaction: finish(transaction, outcomes)
                )
                break
            except Exception as error:
                # A failure of its own is only what the outcome itself brings about.
                away = isinstance(error, Unavailable)
                if not away and is_of_the_rows(error):
                    return self._write_each(ready, error)
                leased_until = max(one.lease_until for one, _ in ready)
                if time.monotonic() >= (leased_until if away else refused_until):
                    # Whoever takes these up asks the backend what is there.
                    log.error("outcomes.not_written", jobs=len(ready), why=str(error))
                    return {}
                if not away:
                    log.warning("outcomes.not_written_yet", jobs=len(ready), why=str(error))
                time.sleep(_AGAIN_SECONDS)
        for one, _ in ready:
            failpoints.reach("finish.after_commit", action=one.claim.action.name)
        if finished.lost:
            log.warning("outcomes.lease_lost", jobs=finished.lost)
        _tell_successes(outcomes, set(finished.lost))
        self._notices.ended(finished.ended_jobs, finished.ended_batches)
        return finished.wake

    def _write_each(self, ready: list[tuple[RunningJob, Outcome]], error: Exception) -> Wake:
        """One outcome of a group cannot be stored: the others can, and that one fails."""
        if len(ready) > 1:
            return together(*(self._write([entry]) for entry in ready))
        [(one, outcome)] = ready
        log.error("outcomes.refused", job=one.claim.job_id, exc_info=error)
        if isinstance(outcome.problem, _NotStored):
            # Whoever takes it up asks the backend what is there.
            return {}
        problem = _NotStored()
        changes: list[Change] = []
        left = outcome.journaled or (outcome.problem is not None and outcome.changes)
        if one.claim.action.creates or one.claim.touched or left:
            # What is there now is seen, and recorded, by others.
            changes = unseen_after(one.claim, self._database, problem.detail)
        return self._write([(one, Outcome(ending=Ending.FAILED, problem=problem, changes=changes))])


def _named(one: Claim) -> dict[str, Any]:
    """What a job is called in the log."""
    about = {**_targets(one), "host": one.intent.host}
    return {
        **{"job": one.job_id, "action": one.action.name, "backend": one.intent.backend},
        **{name: text for name, text in about.items() if text is not None},
    }


def _targets(one: Claim) -> dict[str, str | None]:
    """The names of what a job is about, by kind."""
    return {kind: one.intent.name_of(kind) for kind in KINDS}


def _tell_successes(outcomes: Iterable[tuple[Claim, Outcome]], lost: set[int]) -> None:
    """Tell which jobs have succeeded: alike ones that were written together in one line."""
    alike: dict[tuple[str, str], list[Claim]] = {}
    for one, outcome in outcomes:
        if outcome.ending is Ending.SUCCEEDED and one.job_id not in lost:
            alike.setdefault((one.action.name, one.intent.backend), []).append(one)
    for (action, backend), claims in alike.items():
        if len(claims) == 1:
            log.info("job.succeeded", attempt=claims[0].attempt, **_named(claims[0]))
        else:
            told = ", ".join(
                f"{one.job_id} {next(filter(None, _targets(one).values()), '')}".strip()
                for one in claims
            )
            log.info("jobs.succeeded", action=action, backend=backend, count=len(claims), jobs=told)
