"""One attempt at one job: what handlers may use, and how the attempt ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from orchestrator import failpoints
from orchestrator.domain.errors import (
    BackendUnavailable,
    Canceled,
    IdentityMismatch,
    InternalError,
    Problem,
    StillWorking,
    problem_for,
)
from orchestrator.domain.states import PolicyState, SnapshotState, VolumeState
from orchestrator.inventory.changes import (
    Attached,
    Change,
    Detached,
    PolicyGone,
    SnapshotGone,
    VolumeGone,
    set_policy,
    set_snapshot,
    set_volume,
    settings_columns,
)
from orchestrator.jobs.claim import (
    UNDO,
    Claim,
    Step,
    last_step,
    last_step_detail,
    parameters_wanted,
    write_step,
)
from orchestrator.jobs.finish import Ending, Outcome, back_off
from orchestrator.jobs.outlook import VolumeOutlook
from orchestrator.jobs.rates import take_turn
from orchestrator.machine import boot_id
from orchestrator.settings import RetrySettings, TransferSettings
from orchestrator.store.database import Database
from workers.backends.interface import (
    Call,
    Device,
    Driver,
    PolicyRef,
    SnapshotRef,
    VolumeFacts,
    VolumeRef,
)
from workers.execution.hooks import Hooks
from workers.leases import HandBack, Held, LeaseLost, Leases

log = structlog.get_logger(__name__)

#: The attempt was broken off, and is not counted.
HANDED_BACK = Outcome(ending=Ending.HANDED_BACK)


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a handler achieved."""

    result: dict[str, Any] = field(default_factory=dict)
    changes: Sequence[Change] = ()
    before: dict[str, Any] | None = None
    after: dict[str, Any] | None = None


@dataclass(frozen=True)
class Here:
    """What all jobs of a worker process share."""

    host: str
    database: Database
    leases: Leases
    #: By the backend's id; and, where there is a limit, the seconds between two attempts at
    #: an action there.
    drivers: Mapping[int, Driver]
    intervals: Mapping[int, Mapping[str, float]]
    transfer: TransferSettings


class Work:
    """One attempt. Also the `Call` that drivers receive."""

    def __init__(self, held: Held, here: Here) -> None:
        self.claim: Claim = held.claim
        self.intent = held.claim.intent
        self.driver = self._watched(here.drivers[self.claim.backend_id])
        self.here = here
        self.host = here.host
        self.database = here.database
        self._held = held
        self._leases = here.leases
        self._steps = list(held.claim.steps)
        self.undo: Undo | None = None
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

    def too_early(self) -> float:
        """Seconds until the rate of such jobs allows another attempt."""
        claim = self.claim
        interval = self.here.intervals.get(claim.backend_id, {}).get(claim.action.name)
        if interval is None:
            return 0.0
        return self.database.transact(
            lambda connection: take_turn(
                connection,
                backend_id=claim.backend_id,
                action=claim.action.name,
                job_id=claim.job_id,
                interval=interval,
            )
        )

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
        self._held.cancelable = self.claim.action.cancelable
        return step

    @property
    def journaled(self) -> bool:
        """Whether anything was written down for this job."""
        return bool(self._steps)

    def intended(self, name: str) -> Step | None:
        """The step of this name, if it was ever intended."""
        return next((step for step in self._steps if step.name == name), None)

    @property
    def steps(self) -> Sequence[Step]:
        """All that was written down, by earlier attempts too."""
        return self._steps

    def _write(self, step: Step) -> None:
        if not self.database.transact(lambda connection: write_step(connection, self.claim, step)):
            raise LeaseLost
        failpoints.reach("journal.after_commit", action=self.claim.action.name)

    # -- what the job is about ------------------------------------------------------------

    @property
    def volume(self) -> VolumeRef:
        """The target volume."""
        assert self.intent.volume is not None and self.intent.volume_id is not None  # noqa: S101
        recorded = self.claim.volume
        if recorded is not None:
            return _ref(self.intent.volume_id, recorded)
        return VolumeRef(
            self.intent.volume_id,
            self.intent.volume,
            parameters=parameters_wanted(self.claim),
            settings=self.intent.settings,
            policy=self.policy if self.intent.policy is not None else None,
        )

    @property
    def policy(self) -> PolicyRef:
        """The export policy: the target, or what the target is to have."""
        assert self.intent.policy is not None and self.intent.policy_id is not None  # noqa: S101
        recorded = self.claim.policy
        native = recorded.native if recorded else None
        return PolicyRef(self.intent.policy_id, self.intent.policy, native)

    @property
    def snapshot(self) -> SnapshotRef:
        """The snapshot of the target, or for a clone of its source."""
        assert self.intent.snapshot is not None and self.intent.snapshot_id is not None  # noqa: S101
        of = self.source if "source" in self.intent.params else self.volume
        return SnapshotRef(self.intent.snapshot_id, self.intent.snapshot, of)

    @property
    def source(self) -> VolumeRef:
        """The source of a clone or copy."""
        assert self.intent.source_id is not None  # noqa: S101
        recorded = self.claim.source
        if recorded is not None:
            return _ref(self.intent.source_id, recorded)
        return VolumeRef(self.intent.source_id, self.intent.params["source"])

    @property
    def source_driver(self) -> Driver:
        """The driver of the backend that the source of a copy is on, whose marker is right.

        Raises `BackendUnavailable` where this worker does not serve that backend.
        """
        backend = self.claim.source_backend
        assert backend is not None  # noqa: S101 - the rule has checked it
        driver = self.here.drivers.get(backend.id)
        if driver is None:
            raise BackendUnavailable(
                f"the worker on {self.host} that serves backend {self.intent.backend} does not "
                f"serve backend {backend.name}, so it cannot read there: have one host serve both "
                "(see 'hosts' in the configuration)"
            )
        _check_identity(driver, backend.name, backend.identity, backend.identity_written)
        return self._watched(driver)

    def _watched(self, driver: Driver) -> Driver:
        return failpoints.watched(driver, action=self.claim.action.name)

    def check_identity(self) -> None:
        """Raise `IdentityMismatch` unless the storage bears this backend's marker."""
        claim = self.claim
        _check_identity(self.driver, self.intent.backend, claim.identity, claim.identity_written)


def _ref(id_: str, recorded: VolumeOutlook) -> VolumeRef:
    """What drivers are told of a recorded volume."""
    return VolumeRef(
        id_, recorded.name, recorded.size_bytes, recorded.parameters, recorded.settings
    )


def _check_identity(driver: Driver, backend: str, wanted: str | None, written: bool) -> None:
    """Raise `IdentityMismatch` unless the storage bears the marker that is known of a backend.

    Of storage that can bear none it is only seen that it is there.
    """
    found = driver.read_identity()
    if "identity" in driver.cannot_tell:
        return
    if wanted is None or not written:
        raise BackendUnavailable(
            f"backend {backend} has not been set up yet: 'orchestrator backend show {backend}' "
            "says what is wrong with it; it is tried again"
        )
    if found != wanted:
        what = "no identity marker" if found is None else "the marker of another backend"
        raise IdentityMismatch(
            f"the storage of backend {backend} bears {what}: is it mounted? Nothing was changed. "
            "If it is the right storage, an administrator can say so with 'orchestrator backend "
            f"verify {backend} accept_identity=true'"
        )


def sizes_of(facts: VolumeFacts) -> dict[str, Any]:
    """What results, records and history say of a volume's size."""
    return {"size_bytes": facts.size_bytes, "used_bytes": facts.used_bytes}


def recorded_volume(work: Work) -> VolumeOutlook:
    """The target as the inventory has it; the rules made sure that there is one."""
    assert work.claim.volume is not None  # noqa: S101
    return work.claim.volume


def exports_of(facts: VolumeFacts, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What records say of a volume's settings and export: ``settings`` and what was found."""
    if not settings and not facts.settings:
        return {} if facts.address is None else {"address": facts.address}
    return {
        **settings_columns({**settings, **facts.settings}),
        "address": facts.address,
        "snapshot_reserve_used_percent": facts.snapshot_reserve_used_percent,
    }


def made(work: Work, facts: VolumeFacts) -> Done:
    """The target volume was made, and is like this."""
    result = {"id": work.volume.id, **sizes_of(facts)}
    record = {**sizes_of(facts), **exports_of(facts, work.volume.settings)}
    return Done(
        result=result,
        changes=[set_volume(work.volume.id, state=VolumeState.AVAILABLE, **record)],
        after={"state": VolumeState.AVAILABLE, **result},
    )


Handler = Callable[[Work], Done]
#: Takes away what an attempt made elsewhere than on the backend.
Undo = Callable[[Work, Call], None]


def attempt(
    work: Work,
    handler: Handler,
    retry: RetrySettings,
    hooks: Hooks,
    *,
    storage: bool,
    undo: Undo | None = None,
) -> Outcome | None:
    """Make one attempt; how it ended, or None if the lease was lost and nothing may be said.

    ``storage``: the action touches the backend, so its marker is checked first. ``undo``: for
    one that leaves the backend as it is.
    """
    work.undo = undo
    claim = work.claim
    try:
        if claim.refused is not None:
            raise claim.refused
        if decided := work.intended(last_step(claim.action)):
            return _resume_end(work, decided, retry)
        work.checkpoint()
        if (wait := work.too_early()) > 0:
            return Outcome(ending=Ending.LIMITED, delay=wait)
        if storage:
            work.check_identity()
        hooks.before(work)
        # What changes an existing volume says so itself, with `intend`.
        work.touched = work.touched or claim.action.creates
        done = handler(work)
        failed = hooks.after(work, done.result)
    except LeaseLost:
        return None
    except HandBack:
        return HANDED_BACK
    except StillWorking as problem:
        return Outcome(ending=Ending.LIMITED, problem=problem, delay=problem.seconds)
    except Problem as problem:
        return _ended_badly(work, problem, retry)
    except Exception as error:
        log.exception("work.unforeseen_error", job=claim.job_id, action=claim.action.name)
        return _ended_badly(work, _unforeseen(error), retry)
    return Outcome(
        ending=Ending.SUCCEEDED,
        result={**done.result, "warnings": failed} if failed else done.result,
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
    if claim.refused is not None:
        return Outcome(ending=ending, problem=problem)
    try:
        return _end(work, ending, problem, retry)
    except LeaseLost:
        return None


def _resume_end(work: Work, step: Step, retry: RetrySettings) -> Outcome:
    """Go on with an end that was decided earlier; nothing else is done for this job."""
    error = step.detail["error"]
    problem = problem_for(error["code"])(error["detail"])
    return _end(work, Ending(step.detail["ending"]), problem, retry)


def _end(work: Work, ending: Ending, problem: Problem, retry: RetrySettings) -> Outcome:
    """End the job as ``problem`` says: what it has made is gone then, what it has changed told.

    While the storage is away and does not let that be seen, the job waits for it.
    """
    claim = work.claim
    creates = claim.action.creates
    changes: Sequence[Change] = ()
    try:
        if work.undo is not None and work.touched:
            # From here on other claims end it, too, and a late one is shut out.
            work.note(last_step(claim.action), **last_step_detail(ending, problem))
            work.undo(work, _Ending(work))
        elif creates:
            changes = _undo(work, last_step_detail(ending, problem))
        elif work.touched:
            changes = _truth(work)
    except LeaseLost:
        raise
    except Exception as error:
        foreseen = isinstance(error, Problem)
        obstacle = error if isinstance(error, Problem) else _unforeseen(error)
        log.warning(
            "work.not_settled",
            job=work.job_id,
            why=obstacle.detail,
            exc_info=None if foreseen else error,
        )
        away = isinstance(obstacle, IdentityMismatch) or (foreseen and obstacle.retryable)
        if away or (not foreseen and claim.attempt < claim.max_attempts):
            return _later(work, ending, problem, obstacle, retry)
        made = creates or work.undo is not None
        problem = type(problem)(f"{problem.detail}; {_LEFT[made]}: {obstacle.detail}")
        changes = () if work.undo is not None else _in_error(work, problem.detail)
    return Outcome(ending=ending, problem=problem, changes=changes)


#: What is not known of a job's end, by whether it makes something new.
_LEFT = {
    True: "and what it had begun to make could not be taken away",
    False: "and what it has left could not be seen",
}


def _later(
    work: Work, ending: Ending, problem: Problem, obstacle: Problem, retry: RetrySettings
) -> Outcome:
    """Look again when the storage may be back."""
    delay = back_off(work.claim.claims, retry.first_seconds, retry.most_seconds)
    # Where the database is away, whoever takes the job up decides again.
    with suppress(Problem):
        work.note(last_step(work.claim.action), **last_step_detail(ending, problem))
    return Outcome(ending=Ending.RETRY, problem=obstacle, delay=delay, decided=True)


def _undo(work: Work, decided: dict[str, Any]) -> list[Change]:
    """Take away what this very job has made, and only that."""
    if work.touched:
        work.note(UNDO, **decided)
    if work.claim.action.kind == "policy":
        if work.touched and work.claim.identity_written:
            work.check_identity()
            work.driver.discard_policy(built_policy(work), _Ending(work))
        return [PolicyGone(work.policy.id)]
    is_snapshot = work.claim.action.kind == "snapshot"
    made: VolumeRef | SnapshotRef = work.snapshot if is_snapshot else work.volume
    # A backend that was never set up cannot have been touched.
    if work.touched and work.claim.identity_written:
        work.check_identity()
        work.driver.discard(made, _Ending(work))
    return [SnapshotGone(made.id) if is_snapshot else VolumeGone(made.id)]


def _truth(work: Work) -> list[Change]:
    """What a change that failed left of an existing volume.

    Earlier claims of the job are shut out first: what is seen then stays so.
    """
    recorded = work.claim.volume
    if recorded is None:
        return _truth_of_policy(work)
    work.check_identity()
    changed: list[VolumeRef | SnapshotRef] = [work.volume]
    changed += [SnapshotRef(one.id, one.name, work.volume) for one in recorded.snapshots.values()]
    for one in changed:
        work.driver.fence_off(one, _Ending(work))
    facts = work.driver.inspect(work.volume)
    if facts is None and work.intended("remove"):
        return [VolumeGone(recorded.id)]
    if facts is None:
        lost = f"its storage was not found after job {work.job_id} had failed"
        return [set_volume(recorded.id, state=VolumeState.ERROR, detail=lost)]
    kept = {snapshot.id for snapshot in work.driver.list_snapshots(work.volume)}
    return [
        set_volume(
            recorded.id,
            # Only a rename may have changed the name; its lanes hold both.
            name=facts.name if work.intended("rename") else recorded.name,
            size_bytes=facts.size_bytes,
            used_bytes=facts.used_bytes,
            metadata=recorded.metadata
            if "metadata" in work.driver.cannot_tell
            else dict(facts.metadata),
            **exports_of(facts, recorded.settings),
            **_assigned(work, facts),
        ),
        *(SnapshotGone(one.id) for one in recorded.snapshots.values() if one.id not in kept),
        *_use(work, recorded, work.driver.devices(work.volume)),
    ]


def built_policy(work: Work) -> PolicyRef:
    """The policy that the job makes, with the key that the storage has given it."""
    step = work.intended("built")
    return replace(work.policy, native=step.detail.get("native") if step else None)


def _assigned(work: Work, facts: VolumeFacts) -> dict[str, Any]:
    """Which policy the volume has, after a change of just that had failed."""
    if work.intended("assign") is None:
        return {}
    wanted = work.claim.policy
    if facts.policy is None:
        return {"policy_id": None}
    return {"policy_id": wanted.row_id} if wanted and wanted.name == facts.policy else {}


def _truth_of_policy(work: Work) -> list[Change]:
    """What a change that failed left of an export policy."""
    recorded = work.claim.policy
    if recorded is None:
        return []
    work.check_identity()
    found = work.driver.inspect_policy(work.policy)
    if found is None:
        if work.intended("remove"):
            return [PolicyGone(recorded.id)]
        return [set_policy(recorded.id, state=PolicyState.ERROR)]
    # Written once more by this claim, they stay: earlier claims are shut out.
    facts = work.driver.set_rules(work.policy, found.rules, _Ending(work))
    if facts.rules == recorded.rules:
        return []
    return [set_policy(recorded.id, rules=[rule.written for rule in facts.rules])]


def _in_error(work: Work, why: str) -> list[Change]:
    """The state of what nobody can tell the state of."""
    if work.claim.action.creates and work.claim.action.kind == "snapshot":
        return [set_snapshot(work.snapshot.id, state=SnapshotState.ERROR)]
    if work.intent.volume is None and work.intent.policy_id is not None:
        return [set_policy(work.intent.policy_id, state=PolicyState.ERROR)]
    if work.intent.volume_id is None:
        return []
    return [set_volume(work.intent.volume_id, state=VolumeState.ERROR, detail=why)]


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


class Part:
    """The `Call` of a part of long work: what it tells of its progress is added to the whole."""

    def __init__(self, work: Work, before: int, total: int) -> None:
        self._work, self._before, self._total = work, before, total
        self.job_id = work.job_id
        self.fence = work.fence
        self.checkpoint = work.checkpoint
        self.seconds_left = work.seconds_left

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        """Note how far the whole has come."""
        self._work.progress(self._before + done, self._total, unit)


class _Ending:
    """The `Call` of what ends a job: only the loss of the lease stops it."""

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
        """Nobody waits for it."""

    def seconds_left(self) -> float:
        return max(30.0, self._work.seconds_left())
