"""The scheduler: what time brings. Several may run; each step is safe to be done twice."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import structlog

from orchestrator import failpoints
from orchestrator.domain.errors import Problem
from orchestrator.findings import refusals
from orchestrator.findings.repairing import by_rule, note_repair
from orchestrator.history.events import latest_number, number_committed
from orchestrator.inventory.capacity import record_day
from orchestrator.jobs import autosize, rechecking, upkeep
from orchestrator.jobs.archive import archive
from orchestrator.jobs.claim import put_back_blocked
from orchestrator.jobs.finish import Finished
from orchestrator.jobs.notices import Notices
from orchestrator.jobs.queued import Queued
from orchestrator.jobs.submission import Accepted, Submission
from orchestrator.jobs.submit import submit
from orchestrator.jobs.wakeups import Wakeups
from orchestrator.ledger import expiry, restored
from orchestrator.ledger.archive import archive_events
from orchestrator.ledger.chain import ForeignChainError, extend, key_of
from orchestrator.logs import Said, Trouble, configure_logs
from orchestrator.schedules.due import mend_schedules, run_due
from orchestrator.settings import Settings
from orchestrator.store import migrate
from orchestrator.store.database import Database
from orchestrator.store.frozen import watching
from orchestrator.store.transaction import Transaction
from orchestrator.store.verdicts import is_of_the_rows

log = structlog.get_logger(__name__)

#: Seconds between looks at what hardly ever happens.
_SELDOM_SECONDS = 10.0
#: What walks over the indexes of jobs pauses this many times as long as it took, at most for so
#: many seconds: they are full of what has left them since the oldest snapshot that somebody holds.
_PAUSE_FACTOR = 20
_LONGEST_PAUSE = 5.0
_RETENTION_SECONDS = 600.0
#: The most that a run of a schedule holds up the end of the process.
_CLOSING_SECONDS = 5.0
_CAPACITY_SECONDS = 3600.0
#: Events that get their links in one tick: the others wait, and whoever writes them does not.
CHAINED_AT_ONCE = 5_000
#: While so many events come in a tick, the chain waits for a pause, but not for longer than this.
_MANY_EVENTS = 1_000
_PAUSE_SECONDS = 2.0
_UNCHAINED_SECONDS = 60.0

_Ended = TypeVar("_Ended")


class Scheduler:
    """Everything one scheduler does, as steps with their intervals."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        idle_seconds = settings.database.idle_seconds
        self._database = Database(
            settings.database_url, pool_size=2, idle_seconds=idle_seconds, known_schema=True
        )
        # Beside the steps, which may be waiting for just what a frozen process has locked.
        self._frozen = watching(settings.database_url, idle_seconds)
        self._wakeups = Wakeups(settings.broker_url, settings.broker.prefix)
        self._notices = Notices(settings.broker_url, settings.broker.prefix)
        self._key = key_of(settings, make=True)
        self._watch = restored.Watch(settings.data)
        #: When the chain was extended last, and until when it leaves the machine to others.
        self._chained_at = time.monotonic()
        self._busy_until = 0.0
        #: Where schedules are run: a long run keeps nothing else waiting.
        self._beside: threading.Thread | None = None
        tick = settings.scheduler.tick_seconds
        #: (seconds between, what is done, when it is due next)
        self._steps: list[tuple[float, Callable[[], None]]] = [
            (tick, self._queue_due),
            (tick, self._reclaim),
            (tick, self._number_events),
            (tick, self._chain_events),
            (settings.scheduler.relay_seconds, self._relay),
            (_SELDOM_SECONDS, self._overlooked),
            (_SELDOM_SECONDS, self._dead_hosts),
            (_SELDOM_SECONDS, self._expire_locks),
            (settings.scheduler.autosize_seconds, self._autosize),
            (_SELDOM_SECONDS, self._look_again),
            (_SELDOM_SECONDS, self._repair_by_rule),
            (tick, self._run_schedules_beside),
            (_SELDOM_SECONDS, self._mend_schedules),
            (_SELDOM_SECONDS, self._archive_what_was_asked_for),
            (_SELDOM_SECONDS, self._archive_events),
            (_RETENTION_SECONDS, self._retain),
            (_CAPACITY_SECONDS, self._record_capacity),
        ]
        self._due = [0.0] * len(self._steps)
        self._walks = (self._reclaim, self._relay, self._overlooked, self._dead_hosts)
        self._troubles: dict[str, Trouble] = {}
        self._refused = Said(log, "scheduler.job_refused")
        self._foreign = Said(log, "chain.refused")
        self._looks, self._repairs = Said(log, "look.refused"), Said(log, "repair.refused")

    def tick(self) -> None:
        """Do every step that is due; one that fails does not keep the others from being done."""
        for place, (seconds, step) in enumerate(self._steps):
            if time.monotonic() < self._due[place]:
                continue
            began = time.monotonic()
            self._try(step)
            ended = time.monotonic()
            pause = 0.0
            if step in self._walks:
                pause = min(_LONGEST_PAUSE, _PAUSE_FACTOR * (ended - began))
            self._due[place] = ended + max(seconds, pause)

    def _try(self, step: Callable[[], None]) -> None:
        name = step.__name__.strip("_")
        trouble = self._troubles.setdefault(
            name, Trouble(log, "scheduler.step_failed", "scheduler.step_works_again")
        )
        try:
            step()
        except Exception as error:
            trouble.came(step=name, error=str(error))
        else:
            trouble.went(step=name)

    def close(self) -> None:
        """Let go of the database and the broker. A run that goes on is finished by the next one."""
        if self._beside is not None:
            self._beside.join(timeout=_CLOSING_SECONDS)
        self._wakeups.close()
        self._notices.close()
        self._frozen.close()
        self._database.close()

    def _tell(self, finished: Finished) -> None:
        self._notices.ended(finished.ended_jobs, finished.ended_batches)
        self._wakeups.send(finished.wake)

    def _queue_due(self) -> None:
        wake = self._database.transact(upkeep.queue_due)
        if wake:
            failpoints.reach("due.after_commit")
        self._wakeups.send(wake)

    def _reclaim(self) -> None:
        try:
            self._reclaimed(self._database.transact(upkeep.reclaim_expired))
        except Exception as error:
            if not is_of_the_rows(error):
                raise
            # What the database refuses of one job keeps no other from being taken up.
            for job_id in self._database.look(upkeep.expired):
                self._one_by_one(job_id, upkeep.reclaim_expired, self._reclaimed)

    def _one_by_one(
        self, job_id: int, end: Callable[..., _Ended], tell: Callable[[_Ended], None]
    ) -> None:
        """End this job alone; where what it may have left cannot be recorded, without that."""
        for looked_at in (True, False):
            try:
                tell(self._database.transact(partial(end, only=job_id, looked_at=looked_at)))
            except Exception as error:
                if not is_of_the_rows(error):
                    raise
                if self._refused.refused(job_id, str(error), job=job_id):
                    # Its message, without the values that it was about.
                    why = str(error).partition("\n")[0][:500]
                    self._note(partial(refusals.note_stuck, job_id=job_id, why=why))
            else:
                return

    def _reclaimed(self, reclaimed: upkeep.Reclaimed) -> None:
        if reclaimed.wake:
            failpoints.reach("reclaim.after_commit")
            log.warning("scheduler.leases_lost", queues=sorted(reclaimed.wake))
        self._wakeups.send(reclaimed.wake)
        self._tell(reclaimed.finished)

    def _number_events(self) -> None:
        while numbered := self._database.transact(number_committed):
            if numbered >= _MANY_EVENTS:
                self._busy_until = time.monotonic() + _PAUSE_SECONDS
            failpoints.reach("events.after_commit")
            with self._database.read() as transaction:
                self._notices.numbered(latest_number(transaction))

    def _chain_events(self) -> None:
        now = time.monotonic()
        if now < self._busy_until and now < self._chained_at + _UNCHAINED_SECONDS:
            return
        self._chained_at = now
        try:
            self._database.transact(
                lambda transaction: extend(transaction, self._key, CHAINED_AT_ONCE)
            )
        except ForeignChainError as error:
            self._foreign.refused("key", str(error))
        else:
            self._foreign.accepted("key")

    def _relay(self) -> None:
        older_than = self._settings.scheduler.relay_seconds
        with self._database.read() as transaction:
            overdue = upkeep.overdue_queues(transaction, older_than)
        if overdue:
            with failpoints.around("relay.before_send", "relay.after_send"):
                self._wakeups.send({queue: Queued(count) for queue, count in overdue.items()})

    def _overlooked(self) -> None:
        self._wakeups.send(self._database.transact(upkeep.queue_overlooked))
        self._tell(self._database.transact(upkeep.cancel_overlooked))
        self._database.transact(put_back_blocked)

    def _dead_hosts(self) -> None:
        grace = self._settings.scheduler.host_grace_seconds
        fail = partial(upkeep.fail_for_dead_hosts, grace=grace)
        try:
            self._tell(self._database.transact(fail))
        except Exception as error:
            if not is_of_the_rows(error):
                raise
            # What the database refuses of one job keeps no other from being ended.
            for job_id in self._database.look(partial(upkeep.without_host, grace=grace)):
                self._one_by_one(job_id, fail, self._tell)

    def _expire_locks(self) -> None:
        self._database.transact(upkeep.expire_locks)

    def _autosize(self) -> None:
        scheduler = self._settings.scheduler
        with self._database.read() as transaction:
            refreshes = autosize.refreshes(transaction, scheduler.autosize_seconds)
            growths = list(autosize.growths(transaction, scheduler.autosize_percent))
        for submission in refreshes:
            with suppress(Problem):  # the next look is soon
                self._wakeups.send(self._database.transact(partial(self._submit, submission)).wake)
        for growth in growths:
            self._grow(growth)

    def _grow(self, growth: autosize.Growth) -> None:
        why = growth.why_not
        if growth.submission is not None:
            try:
                accepted = self._database.transact(partial(self._submit, growth.submission))
            except Problem as problem:
                if not autosize.matters(problem):
                    return
                why = problem.detail
            else:
                self._wakeups.send(accepted.wake)
                return
        if self._database.transact(partial(autosize.note_refusal, growth=growth, why=why)):
            log.warning("autosize.refused", backend=growth.backend, volume=growth.volume, why=why)

    def _look_again(self) -> None:
        with self._database.read() as transaction:
            at_policies = rechecking.policies_due(transaction)
        for submission in [*self._database.transact(rechecking.due), *at_policies]:
            [request] = submission.requests
            about = {"volume": request.volume, "policy": request.policy}
            key = (request.backend, request.volume, request.policy)
            try:
                accepted = self._database.transact(partial(self._submit, submission))
            except Problem as problem:
                why = problem.detail
                if self._looks.refused(key, why, backend=request.backend, **about):
                    self._note(partial(refusals.note_look, key=key, why=why))
            else:
                self._looks.accepted(key)
                self._wakeups.send(accepted.wake)

    def _note(self, note: Callable[[Transaction], None]) -> None:
        """Record a refusal; it keeps no other from being dealt with that this fails."""
        try:
            self._database.transact(note)
        except Exception as error:
            log.warning("scheduler.refusal_not_recorded", error=str(error))

    def _submit(self, submission: Submission, transaction: Transaction) -> Accepted:
        return submit(transaction, submission, max_attempts=self._settings.retry.max_attempts)

    def _watch_restores(self) -> None:
        with self._database.read() as transaction:
            older = self._watch.is_older(transaction)
            revoked = self._watch.revoked(transaction) or []
        if older:
            log.warning("scheduler.database_is_older", remedy=restored.REMEDY)
            self._database.transact(
                lambda transaction: restored.note_restored(
                    transaction, self._watch.reached, revoked
                )
            )
        with self._database.read() as transaction:
            self._watch.keep(transaction)

    def _repair_by_rule(self) -> None:
        # What a restored database lacks is noticed before any rule acts on it.
        self._watch_restores()
        with self._database.read() as transaction:
            wanted = list(by_rule(transaction, self._settings.audit))
        for finding_id, submission in wanted:
            try:
                accepted = self._database.transact(partial(self._submit, submission))
                # In a transaction of its own: nothing follows a submission but its commit.
                self._database.transact(
                    partial(note_repair, finding_id=finding_id, job_id=accepted.job_ids[0])
                )
            except Problem as problem:
                why = problem.detail
                self._repairs.refused(finding_id, why, finding=finding_id)
                # Not only the first time: an audit that sees it again renews the finding's detail.
                self._note(partial(refusals.note_repair, finding_id=finding_id, why=why))
            else:
                self._repairs.accepted(finding_id)
                self._wakeups.send(accepted.wake)

    def _run_schedules_beside(self) -> None:
        if self._beside is None or not self._beside.is_alive():
            self._beside = threading.Thread(target=self._try_schedules, daemon=True)
            self._beside.start()

    def _try_schedules(self) -> None:
        self._try(self._run_schedules)

    def _run_schedules(self) -> None:
        run_due(
            self._database,
            max_attempts=self._settings.retry.max_attempts,
            exports=self._settings.exports,
            send=self._wakeups.send,
        )

    def _mend_schedules(self) -> None:
        mend_schedules(self._database)

    def _retain(self) -> None:
        retention = self._settings.retention
        deleted = self._database.transact(
            lambda transaction: upkeep.retain(
                transaction, idempotency_days=retention.idempotency_days
            )
        )
        if any(deleted.values()):
            log.info("scheduler.retention", **deleted)
        if retention.jobs_days is not None:
            self._archive(retention.jobs_days)
        if retention.archive_days is not None:
            self._delete_archives(retention.archive_days)

    def _record_capacity(self) -> None:
        self._database.transact(record_day)

    def _archive_what_was_asked_for(self) -> None:
        self._archive(None)

    def _archive(self, older_than_days: float | None) -> None:
        while archived := self._database.transact(
            lambda transaction: archive(
                transaction, self._settings.archive, older_than_days=older_than_days
            )
        ):
            log.info("scheduler.archived", jobs=archived)

    def _archive_events(self) -> None:
        """One file at a time: what else there is to do comes in between."""
        days = self._settings.retention.events_days
        if days is None:
            return
        left = self._database.transact(
            lambda transaction: archive_events(
                transaction, self._key, self._settings.archive, older_than_days=days
            )
        )
        if left:
            log.info("scheduler.archived", events=left)

    def _delete_archives(self, days: float) -> None:
        directory = self._settings.archive
        names = self._database.look(
            lambda transaction: expiry.left_over(transaction, self._key, directory)
        )
        expiry.unlink(directory, names)
        while names := self._database.transact(
            lambda transaction: expiry.expire(
                transaction, self._key, directory, older_than_days=days
            )
        ):
            expiry.unlink(directory, names)
            log.info("scheduler.archives_deleted", files=names)


def run(settings: Settings) -> None:
    """Schedule until SIGTERM or SIGINT."""
    configure_logs(settings.log, "scheduler")
    stopped = threading.Event()

    def stop(*_: Any) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    migrate.refuse_unknown(settings.database_url)
    scheduler = Scheduler(settings)
    log.info("scheduler.started")
    try:
        while not stopped.is_set():
            scheduler.tick()
            stopped.wait(settings.scheduler.tick_seconds)
    finally:
        scheduler.close()
        log.info("scheduler.stopped")
