"""Leases: one heartbeat for all jobs in this process's hands, and what it hears."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from orchestrator import failpoints
from orchestrator.domain.errors import Canceled, TimedOut
from orchestrator.jobs.claim import Claim, renew
from orchestrator.logs import Trouble
from orchestrator.store.database import Database

log = structlog.get_logger(__name__)

#: Seconds beyond a job's time limit before its lease is no longer renewed: by then the
#: driver has had its chance to stop by itself.
_HUNG_SECONDS = 30.0


class LeaseLost(Exception):
    """Another worker may have this job by now: stop, and write nothing."""


class HandBack(Exception):
    """The worker is shutting down: stop here and let another go on."""


@dataclass
class RunningJob:
    """A claimed job in this process's hands."""

    claim: Claim
    #: On this process's monotonic clock: when the lease runs out unless it is renewed.
    lease_until: float
    #: Seconds that the attempt may take, and when it has had them.
    limit: float
    deadline: float
    #: False once this attempt may have changed what is not newly made: then the job is finished,
    #: because only that leaves a state that can be told.
    cancelable: bool
    lost: bool = False
    canceled: bool = False
    progress: dict[str, Any] | None = None
    told: dict[str, Any] | None = None
    started: bool = field(default=False)


class Leases:
    """Keeps the leases of claimed jobs alive, from a thread of its own.

    A lease that could not be renewed in time counts as lost at once, by this process's own
    clock: also when it was frozen meanwhile, before it hears so from the database.
    """

    def __init__(
        self,
        database: Database,
        *,
        lease_seconds: float,
        beat_seconds: float,
        time_limits: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """``time_limits``: seconds an attempt may take, by backend and action, where it is not
        the action's own limit."""
        self._database = database
        self._time_limits = time_limits or {}
        self._lease_seconds = lease_seconds
        self._beat_seconds = beat_seconds
        self._held: dict[int, RunningJob] = {}
        self._guard = threading.Lock()
        self._trouble = Trouble(log, "leases.not_renewed", "leases.renewed_again")
        self._stopped = threading.Event()
        #: Set when the process shuts down: jobs stop at their next safe point.
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._thread.start()

    def hold(self, claims: Sequence[Claim], claimed_at: float) -> list[RunningJob]:
        """Begin to renew these; ``claimed_at``: monotonic time before they were claimed."""
        until = claimed_at + self._lease_seconds
        held = [
            RunningJob(
                claim,
                lease_until=until,
                limit=(limit := self._limit(claim)),
                deadline=time.monotonic() + limit,
                cancelable=True,
                canceled=claim.cancel_requested,
            )
            for claim in claims
        ]
        with self._guard:
            self._held.update({one.claim.job_id: one for one in held})
        return held

    def begin(self, held: RunningJob) -> None:
        """The job's own time begins now; it may have waited for others of its group."""
        held.started = True
        held.deadline = time.monotonic() + held.limit

    def drop(self, held: Sequence[RunningJob]) -> None:
        """Stop renewing these: their outcome is written, or is no longer ours to write."""
        with self._guard:
            for one in held:
                if self._held.get(one.claim.job_id) is one:
                    del self._held[one.claim.job_id]

    @property
    def busy(self) -> bool:
        """Whether any job is in this process's hands."""
        with self._guard:
            return bool(self._held)

    def check(self, held: RunningJob) -> None:
        """Raise if the job must stop here: a safe point."""
        now = time.monotonic()
        if held.lost or now >= held.lease_until:
            held.lost = True
            raise LeaseLost
        if held.canceled and held.cancelable:
            raise Canceled("canceled while it was running")
        if now >= held.deadline:
            raise TimedOut(f"the attempt took longer than its {held.limit:g} s")
        if self.stopping.is_set():
            raise HandBack

    def _limit(self, claim: Claim) -> float:
        limits = self._time_limits.get(claim.intent.backend, {})
        return limits.get(claim.action.name, claim.action.time_limit)

    def close(self) -> None:
        """Stop renewing anything."""
        self._stopped.set()
        self._thread.join(timeout=self._beat_seconds + 5)

    def _run(self) -> None:
        while not self._stopped.wait(self._beat_seconds):
            try:
                self._beat()
                self._trouble.went()
            except Exception as error:
                # Until the next beat the leases still run; then they count as lost.
                self._trouble.came(error=str(error))

    def _beat(self) -> None:
        now = time.monotonic()
        with self._guard:
            living = [
                one
                for one in self._held.values()
                if not one.lost and (not one.started or now < one.deadline + _HUNG_SECONDS)
            ]
        if not living:
            return
        fences = {one.claim.job_id: one.claim.fence for one in living}
        progress = {
            one.claim.job_id: one.progress
            for one in living
            if one.progress is not None and one.progress is not one.told
        }
        with failpoints.around("lease.before_renewal", "lease.after_renewal"):
            found = self._database.transact(
                lambda transaction: renew(transaction, fences, self._lease_seconds, progress)
            )
        for one in living:
            job_id = one.claim.job_id
            if job_id not in found.held:
                # Not lost if it was finished while we asked: then nobody looks at this.
                one.lost = True
                continue
            one.told = progress.get(job_id, one.told)
            if job_id in found.renewed:
                one.lease_until = now + self._lease_seconds
            if job_id in found.to_cancel:
                one.canceled = True
