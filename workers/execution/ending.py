"""How a job ends that did not succeed: what it made is gone then, what it changed is told."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import select

from orchestrator.domain.errors import (
    Canceled,
    IdentityMismatch,
    InternalError,
    Outage,
    OutcomeUnknown,
    Problem,
    problem_for,
)
from orchestrator.domain.states import Ending
from orchestrator.jobs.claim import UNDO, Claim, Step, last_step, last_step_detail
from orchestrator.jobs.finish import Outcome, back_off
from orchestrator.jobs.rechecking import unseen
from orchestrator.resources.changes import Change
from orchestrator.resources.registry import RESOURCES
from orchestrator.settings import RetrySettings
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from workers.execution.outcomes import Nothing, OutcomeOf, Part, Whole
from workers.execution.truth import (
    LastCall,
    look,
    look_at_policy,
    recorded,
    recorded_policy,
    told_of,
)
from workers.execution.work import Done, Work
from workers.leases import HandBack, LeaseLost

log = structlog.get_logger(__name__)


#: The attempt was broken off, and is not counted.
HANDED_BACK = Outcome(ending=Ending.HANDED_BACK)


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
    except HandBack:
        return HANDED_BACK


def called_off(work: Work, outcome_of: OutcomeOf, retry: RetrySettings) -> Done | Outcome:
    """What has become of a job that was canceled while nobody worked on it.

    Nothing of it is begun anew: the storage is asked what there is. `Done` if all of it had
    happened by then.
    """
    work.heed_no_cancel()
    try:
        become = outcome_of(work)
        if isinstance(become, Nothing) and work.claim.volume is not None:
            work.driver.withdraw(work.volume, LastCall(work))
    except (LeaseLost, HandBack):
        raise
    except Exception as error:
        obstacle = _obstacle(work, error)
        if _may_pass(work, error, obstacle):
            return _wait(work, obstacle, retry)
        problem = Canceled(f"canceled, {_LEFT[False]}: {obstacle.detail}")
        return Outcome(
            ending=Ending.FAILED, problem=problem, changes=_in_error(work, problem.detail)
        )
    match become:
        case Whole(done):
            return done
        case Nothing(changes):
            said = _with_snapshots(Canceled("canceled; nothing had happened by then"), changes)
            return Outcome(ending=Ending.CANCELED, problem=said, changes=changes)
        case Part(told, facts, changes, stopped):
            part = Canceled(f"canceled after a part of it had happened: {told}", **facts)
            said = _with_snapshots(part, changes)
            ending = Ending.CANCELED if stopped else Ending.FAILED
            return Outcome(ending=ending, problem=said, changes=changes)


def _with_snapshots(problem: Problem, changes: Sequence[Change]) -> Problem:
    """The same, with what was seen of snapshots that are not where they are recorded."""
    told = told_of(changes)
    if not told:
        return problem
    words = {
        "snapshots_struck": "deleted by then: {}",
        "snapshots_missing": "not found on the storage: snapshots {}, whose records stay in error "
        "until 'volume verify' sees them again or they are deleted",
    }
    said = "; ".join(words[part].format(", ".join(names)) for part, names in told.items())
    return type(problem)(f"{problem.detail}; {said}", **{**problem.facts, **told})


def is_open(step: Step | None) -> bool:
    """Whether it is not decided how a job ends: by nobody, or without knowing of what it did."""
    return step is None or step.detail["error"]["code"] == OutcomeUnknown.code


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
        if claim.action.leaves_files and work.touched:
            # From here on other claims end it, too, and a late one is shut out.
            work.note(last_step(claim.action), **last_step_detail(ending, problem))
            _take_away(work)
        elif creates:
            changes = _undo(work, last_step_detail(ending, problem))
        elif work.touched and claim.action.journaled:
            changes = _truth(work)
            problem = _with_snapshots(problem, changes)
    except (LeaseLost, HandBack):
        raise
    except Exception as error:
        obstacle = _obstacle(work, error)
        if _may_pass(work, error, obstacle):
            # Where the database is away, whoever takes the job up decides again.
            with suppress(Problem):
                work.note(last_step(claim.action), **last_step_detail(ending, problem))
            return _wait(work, obstacle, retry)
        made = creates or claim.action.leaves_files
        problem = type(problem)(f"{problem.detail}; {_LEFT[made]}: {obstacle.detail}")
        changes = () if claim.action.leaves_files else _in_error(work, problem.detail)
    return Outcome(ending=ending, problem=problem, changes=changes)


#: Seconds after which a job that waits for a backend looks for itself, at first and at most.
_FIRST_WAIT_SECONDS = 5.0
_MOST_WAIT_SECONDS = 3600.0

#: What is not known of a job's end, by whether it makes something new.
_LEFT = {
    True: "and what it had begun to make could not be taken away",
    False: "and what it has left could not be seen",
}


def _obstacle(work: Work, error: Exception) -> Problem:
    """What kept the end of a job from being seen."""
    foreseen = isinstance(error, Problem)
    obstacle = error if isinstance(error, Problem) else unforeseen(error)
    # That a backend is out of reach is told once, and not with each of its jobs.
    tell = log.debug if isinstance(obstacle, Outage) else log.warning
    tell(
        "work.not_settled",
        job=work.job_id,
        why=obstacle.detail,
        exc_info=None if foreseen else error,
    )
    return obstacle


def _may_pass(work: Work, error: Exception, obstacle: Problem) -> bool:
    """Whether one only has to wait: the storage is away, or the wrong one is there."""
    if isinstance(error, Problem):
        return obstacle.retryable or isinstance(obstacle, IdentityMismatch)
    return work.claim.attempt < work.claim.max_attempts


def _wait(work: Work, obstacle: Problem, retry: RetrySettings) -> Outcome:
    """Look again when the storage may be back; a cancel does not hurry that."""
    if isinstance(obstacle, Outage):
        return until_back(work, obstacle, decided=True)
    delay = back_off(work.claim.claims, retry.first_seconds, retry.most_seconds)
    return Outcome(ending=Ending.RETRY, problem=obstacle, delay=delay, decided=True)


def until_back(work: Work, problem: Outage, *, decided: bool = False) -> Outcome:
    """Wait for the backend. Whoever sees that it is back lets the job go on at once."""
    delay = back_off(work.claim.claims, _FIRST_WAIT_SECONDS, _MOST_WAIT_SECONDS)
    if not work.began and not decided:
        # Whoever cancels it need not wait for the backend.
        problem = Outage(problem.detail, touched=False)
    return Outcome(ending=Ending.OUTAGE, problem=problem, delay=delay, decided=decided)


def _undo(work: Work, decided: dict[str, Any]) -> list[Change]:
    """Take away what this very job has made, and only that."""
    if work.touched:
        work.note(UNDO, **decided)
    made = RESOURCES[work.claim.action.kind]
    # A backend that was never set up cannot have been touched, nor by what needs no storage.
    if work.undo is not None and work.touched and work.claim.identity_written:
        work.check_identity()
        _take_away(work)
    return [made.gone(work.intent.id_of(made.kind) or "")]


def _take_away(work: Work) -> None:
    assert work.undo is not None  # noqa: S101 - what makes something can undo it
    work.undo(work, LastCall(work))


def _truth(work: Work) -> list[Change]:
    """What a change that failed left of what existed."""
    if work.claim.volume is not None:
        return recorded(work, look(work))
    if work.claim.policy is not None:
        return recorded_policy(work, look_at_policy(work))
    return []


def _in_error(work: Work, why: str) -> list[Change]:
    """The state of what nobody can tell the state of: it is looked at again, until it is seen."""
    return unseen_after(work.claim, work.database, why)


def unseen_after(claim: Claim, database: Database, why: str) -> list[Change]:
    """The state of what this claim has made or changed, and nobody can tell the state of."""
    intent, action = claim.intent, claim.action
    # What was to be adopted, or is only an orphan, has no row that could say so.
    if intent.volume_id is not None and claim.volume is None and not action.creates:
        return []
    with database.read() as transaction:
        now: datetime = transaction.execute(select(db_now())).scalar_one()
    return unseen(intent, why, now)
