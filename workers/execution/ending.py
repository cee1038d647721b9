"""How a job ends that did not succeed: what it made is gone then, what it changed is told."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import structlog

from orchestrator.domain.errors import (
    Canceled,
    IdentityMismatch,
    InternalError,
    Problem,
    problem_for,
)
from orchestrator.domain.exports import is_ours
from orchestrator.domain.states import PolicyState, SnapshotState, VolumeState
from orchestrator.inventory.changes import (
    Change,
    Detached,
    PolicyGone,
    SnapshotGone,
    VolumeGone,
    set_policy,
    set_snapshot,
    set_volume,
)
from orchestrator.jobs.claim import UNDO, Step, last_step, last_step_detail
from orchestrator.jobs.finish import Ending, Outcome, back_off
from orchestrator.jobs.outlook import VolumeOutlook
from orchestrator.settings import RetrySettings
from workers.backends.interface import Absent, Device, SnapshotRef, VolumeFacts, VolumeRef
from workers.execution.work import Work, attached_as, built_policy, exports_of
from workers.leases import HandBack, LeaseLost

log = structlog.get_logger(__name__)


class _Unforeseen(InternalError):
    """The worker failed in a way it did not foresee; its log has the details."""

    retryable = True


def unforeseen(error: Exception) -> Problem:
    return _Unforeseen(f"the worker failed unexpectedly ({type(error).__name__}); see its log")


def ended_badly(work: Work, problem: Problem, retry: RetrySettings) -> Outcome | None:
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


def resume_end(work: Work, step: Step, retry: RetrySettings) -> Outcome:
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
        obstacle = error if isinstance(error, Problem) else unforeseen(error)
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
            built, call = built_policy(work), _Ending(work)
            work.driver.discard_policy(built, call)
            if work.driver.inspect_policy(built) is not None:
                # It was published, though nobody heard of that.
                work.driver.remove_policy(built, call)
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
    if isinstance(facts, Absent) and work.intended("remove"):
        return [VolumeGone(recorded.id)]
    if not isinstance(facts, VolumeFacts):
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
            **exports_of(facts, recorded.settings, work.intent.settings.get("junction_path")),
            **_assigned(work, facts),
        ),
        *(SnapshotGone(one.id) for one in recorded.snapshots.values() if one.id not in kept),
        *_use(work, recorded, work.driver.devices(work.volume)),
    ]


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
    if not all(is_ours(rule) for rule in found.rules):
        # Somebody has added what we have no words for: nothing of it is lost, nor recorded.
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


class _Ending:
    """The `Call` of what ends a job: only the loss of the lease stops it."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.job_id = work.job_id
        self.token = work.token
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
