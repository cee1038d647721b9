"""One attempt at one job: what handlers may use, and how the attempt ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from orchestrator import failpoints
from orchestrator.domain.errors import (
    BackendUnavailable,
    Canceled,
    IdentityMismatch,
    InternalError,
    Problem,
    problem_for,
)
from orchestrator.domain.states import SnapshotState, VolumeState
from orchestrator.inventory.changes import (
    Attached,
    Change,
    Detached,
    SnapshotGone,
    VolumeGone,
    set_snapshot,
    set_volume,
)
from orchestrator.jobs.claim import Claim, Step, write_step
from orchestrator.jobs.finish import Ending, Outcome, back_off
from orchestrator.jobs.outlook import VolumeOutlook
from orchestrator.machine import boot_id
from orchestrator.settings import RetrySettings
from orchestrator.store.database import Database
from workers.backends.interface import Device, Driver, SnapshotRef, VolumeRef
from workers.leases import HandBack, Held, LeaseLost, Leases

log = structlog.get_logger(__name__)

#: The journal's name for taking away what a failed job has made.
UNDO = "undo"


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a handler achieved."""

    result: dict[str, Any] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


class Work:
    """One attempt. Also the `Call` that drivers receive."""

    def __init__(
        self, held: Held, driver: Driver, database: Database, leases: Leases, host: str
    ) -> None:
        self.claim: Claim = held.claim
        self.intent = held.claim.intent
        self.driver = failpoints.watched(driver, action=self.claim.action.name)
        self.database = database
        self.host = host
        self._held = held
        self._leases = leases
        self._steps = list(held.claim.steps)
        #: Whether the storage may have been touched on behalf of this job, ever.
        self.touched = held.claim.touched

    # -- what drivers see -----------------------------------------------------------------

    @property
    def job_id(self) -> int:
        """The job."""
        return self.claim.job_id

    @property
    def fence(self) -> int:
        """The claim's fencing number."""
        return self.claim.fence

    def checkpoint(self) -> None:
        """Raise if the work must stop here."""
        self._leases.check(self._held)

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        """Note how far it has come; the next heartbeat tells it."""
        self._held.progress = {"done": done, "total": total, "unit": unit}

    def seconds_left(self) -> float:
        """Time until the deadline."""
        return max(0.0, self._held.deadline - time.monotonic())

    # -- the journal ----------------------------------------------------------------------

    def intend(self, name: str, **detail: Any) -> Step:
        """Commit that this is about to be done; the step of an earlier attempt if it was.

        The last safe point of a change of what exists: from here on it is finished. Raises
        `Locked` if another host has taken the volume's lock meanwhile.
        """
        self.checkpoint()
        return self.note(name, **detail)

    def note(self, name: str, **detail: Any) -> Step:
        """Commit a line of the journal, unless it was written before."""
        if (written := self.intended(name)) is not None:
            return written
        step = Step(len(self._steps) + 1, name, "intended", detail)
        self._write(step)
        self._steps.append(step)
        self.touched = True
        self._held.cancelable = self.claim.action.creates
        return step

    @property
    def journaled(self) -> bool:
        """Whether anything was written down for this job."""
        return bool(self._steps)

    def intended(self, name: str) -> Step | None:
        """The step of this name, if it was ever intended."""
        return next((step for step in self._steps if step.name == name), None)

    def _write(self, step: Step) -> None:
        if not self.database.transact(lambda connection: write_step(connection, self.claim, step)):
            raise LeaseLost
        failpoints.reach("journal.after_commit", action=self.claim.action.name)

    # -- what the job is about ------------------------------------------------------------

    @property
    def volume(self) -> VolumeRef:
        """The target volume."""
        assert self.intent.volume is not None and self.intent.volume_id is not None  # noqa: S101
        return VolumeRef(self.intent.volume_id, self.intent.volume)

    @property
    def snapshot(self) -> SnapshotRef:
        """The snapshot of the target, or for a clone of its source."""
        assert self.intent.snapshot is not None and self.intent.snapshot_id is not None  # noqa: S101
        of = self.source if "source" in self.intent.params else self.volume
        return SnapshotRef(self.intent.snapshot_id, self.intent.snapshot, of)

    @property
    def source(self) -> VolumeRef:
        """The source of a clone."""
        assert self.intent.source_id is not None  # noqa: S101
        return VolumeRef(self.intent.source_id, self.intent.params["source"])

    def check_identity(self) -> None:
        """Raise `IdentityMismatch` unless the storage bears this backend's marker."""
        found = self.driver.read_identity()
        wanted = self.claim.identity
        if wanted is None or not self.claim.identity_written:
            raise BackendUnavailable(
                f"backend {self.intent.backend} has not been set up yet: 'orchestrator backend "
                f"show {self.intent.backend}' says what is wrong with it; it is tried again"
            )
        if found != wanted:
            what = "no identity marker" if found is None else "the marker of another backend"
            raise IdentityMismatch(
                f"the storage of backend {self.intent.backend} bears {what}: is it mounted? "
                "Nothing was changed. If it is the right storage, an administrator can say so "
                f"with 'orchestrator backend verify {self.intent.backend} accept_identity=true'"
            )


Handler = Callable[[Work], Done]


def attempt(work: Work, handler: Handler, retry: RetrySettings, *, storage: bool) -> Outcome | None:
    """Make one attempt; how it ended, or None if the lease was lost and nothing may be said.

    ``storage``: the action touches the backend, so its marker is checked first.
    """
    claim = work.claim
    try:
        if claim.refused is not None:
            raise claim.refused
        if undo := work.intended(UNDO):
            return _resume_undo(work, undo, retry)
        work.checkpoint()
        if storage:
            work.check_identity()
        # What changes an existing volume says so itself, with `intend`.
        work.touched = work.touched or claim.action.creates
        done = handler(work)
    except LeaseLost:
        return None
    except HandBack:
        return Outcome(ending=Ending.HANDED_BACK)
    except Problem as problem:
        return _ended_badly(work, problem, retry)
    except Exception as error:
        log.exception("work.unforeseen_error", job=claim.job_id, action=claim.action.name)
        return _ended_badly(work, _unforeseen(error), retry)
    return Outcome(
        ending=Ending.SUCCEEDED,
        result=done.result,
        changes=done.changes,
        audit={"before": done.before, "after": done.after},
        journaled=work.journaled,
    )


class _Unforeseen(InternalError):
    """The worker failed in a way it did not foresee; its log has the details."""

    retryable = True


def _unforeseen(error: Exception) -> Problem:
    return _Unforeseen(f"the worker failed unexpectedly ({type(error).__name__}); see its log")


def _ended_badly(work: Work, problem: Problem, retry: RetrySettings) -> Outcome | None:
    claim = work.claim
    if problem.retryable and claim.attempt < claim.max_attempts and claim.refused is None:
        delay = back_off(claim.attempt, retry.first_seconds, retry.most_seconds)
        return Outcome(ending=Ending.RETRY, problem=problem, delay=delay)
    ending = Ending.CANCELED if isinstance(problem, Canceled) else Ending.FAILED
    if claim.action.creates and claim.refused is None:
        return _undo(work, ending, problem, retry)
    return Outcome(ending=ending, problem=problem, changes=_truth(work))


def _truth(work: Work) -> list[Change]:
    """What a change that failed left of an existing volume, as far as one can see."""
    recorded = work.claim.volume
    if not work.touched or recorded is None:
        return []
    try:
        facts = work.driver.inspect(work.volume)
        kept = {snapshot.id for snapshot in work.driver.list_snapshots(work.volume)}
        devices = work.driver.devices(work.volume)
    except Exception as error:
        log.warning("work.not_inspected", job=work.job_id, why=str(error))
        return []
    if facts is None and work.intended("remove"):
        return [VolumeGone(recorded.id)]
    if facts is None:
        lost = f"its storage was not found after job {work.job_id} had failed"
        return [set_volume(recorded.id, state=VolumeState.ERROR, detail=lost)]
    return [
        set_volume(
            recorded.id,
            # Only a rename may have changed the name; its lanes hold both.
            name=facts.name if work.intended("rename") else recorded.name,
            size_bytes=facts.size_bytes,
            used_bytes=facts.used_bytes,
            metadata=dict(facts.metadata),
        ),
        *(SnapshotGone(one.id) for one in recorded.snapshots.values() if one.id not in kept),
        *_use(work, recorded, devices),
    ]


def _use(work: Work, recorded: VolumeOutlook, devices: Sequence[Device]) -> list[Change]:
    """Whether the host has the volume attached, after a change of just that had failed."""
    host = work.intent.host
    if host is None or not (work.intended("attach") or work.intended("detach")):
        return []
    if not devices:
        return [Detached(recorded.id, host)]
    if recorded.attachments:
        return []  # as recorded; or another host's, where a device does not tell whose it is
    return [attached_as(recorded.id, host, devices[0])]


def attached_as(volume_id: str, host: str, device: Device) -> Attached:
    """The record of an attachment, as found on the host that this is."""
    told = {
        "device": device.path,
        "uris": list(device.uris),
        "read_only": device.read_only,
        "boot_id": boot_id(),
    }
    return Attached(volume_id, host, told)


def _undo(work: Work, ending: Ending, problem: Problem, retry: RetrySettings) -> Outcome | None:
    """Take away what this very job has made, and only that; then it ends as ``problem`` says."""
    try:
        if work.touched:
            error = {"code": problem.code, "detail": problem.detail}
            work.note(UNDO, ending=ending, error=error)
    except LeaseLost:
        return None
    except Problem as obstacle:
        # The database is away: whoever takes the job up decides again.
        return Outcome(ending=Ending.RETRY, problem=obstacle, delay=retry.first_seconds)
    return _take_away(work, ending, problem, retry)


def _resume_undo(work: Work, step: Step, retry: RetrySettings) -> Outcome | None:
    """Go on with an undo that an earlier attempt had begun."""
    error = step.detail["error"]
    problem = problem_for(error["code"])(error["detail"])
    return _take_away(work, Ending(step.detail["ending"]), problem, retry)


def _take_away(
    work: Work, ending: Ending, problem: Problem, retry: RetrySettings
) -> Outcome | None:
    claim = work.claim
    is_snapshot = claim.action.kind == "snapshot"
    made: VolumeRef | SnapshotRef = work.snapshot if is_snapshot else work.volume
    try:
        # A backend that was never set up cannot have been touched.
        if work.touched and claim.identity_written:
            work.check_identity()
            work.driver.discard(made, _Undoing(work))
    except LeaseLost:
        return None
    except Exception as error:
        obstacle = error if isinstance(error, Problem) else _unforeseen(error)
        log.warning("work.undo_failed", job=claim.job_id, exc_info=error)
        if obstacle.retryable and claim.attempt < claim.max_attempts:
            delay = back_off(claim.attempt, retry.first_seconds, retry.most_seconds)
            return Outcome(ending=Ending.RETRY, problem=obstacle, delay=delay)
        kept = type(problem)(
            f"{problem.detail}; and what it had begun to make could not be taken away: "
            f"{obstacle.detail}"
        )
        in_error: Change = (
            set_snapshot(made.id, state=SnapshotState.ERROR)
            if is_snapshot
            else set_volume(made.id, state=VolumeState.ERROR, detail=kept.detail)
        )
        return Outcome(ending=ending, problem=kept, changes=[in_error])
    gone: Change = SnapshotGone(made.id) if is_snapshot else VolumeGone(made.id)
    return Outcome(ending=ending, problem=problem, changes=[gone])


class _Undoing:
    """The `Call` of an undo: only the loss of the lease stops it."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.job_id = work.job_id
        self.fence = work.fence

    def checkpoint(self) -> None:
        try:
            self._work.checkpoint()
        except (Problem, HandBack):
            return

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        """Undoing tells no progress."""

    def seconds_left(self) -> float:
        return max(30.0, self._work.seconds_left())
