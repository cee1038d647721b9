"""One attempt at one job, from its first look to its outcome."""

from __future__ import annotations

from dataclasses import replace

import structlog

from orchestrator.domain.errors import (
    BackendUnavailable,
    Canceled,
    Outage,
    Problem,
    StillWorking,
    TimedOut,
)
from orchestrator.domain.states import Ending
from orchestrator.jobs.claim import last_step
from orchestrator.jobs.finish import Outcome
from orchestrator.settings import RetrySettings
from workers.execution.ending import (
    HANDED_BACK,
    called_off,
    ended_badly,
    is_open,
    resume_end,
    unforeseen,
    until_back,
)
from workers.execution.handler import Handler
from workers.execution.hooks import Hooks
from workers.execution.work import Done, Work
from workers.leases import HandBack, LeaseLost

log = structlog.get_logger(__name__)


def attempt(work: Work, handler: Handler, retry: RetrySettings, hooks: Hooks) -> Outcome | None:
    """Make one attempt; how it ended, or None if the lease was lost and nothing may be said.

    What its commands said is part of the result, or is kept with the attempt.
    """
    outcome = _attempted(work, handler, retry, hooks)
    if outcome is None or not (output := work.output):
        return outcome
    if outcome.ending is Ending.SUCCEEDED:
        return replace(outcome, result={**(outcome.result or {}), "output": output})
    return replace(outcome, output=output)


def _attempted(work: Work, handler: Handler, retry: RetrySettings, hooks: Hooks) -> Outcome | None:
    work.undo = handler.undo
    claim, outcome_of = work.claim, handler.outcome
    try:
        if claim.refused is not None:
            raise claim.refused
        decided = work.intended(last_step(claim.action))
        if outcome_of and claim.cancel_requested and claim.touched and is_open(decided):
            done = called_off(work, outcome_of, retry)
            if isinstance(done, Outcome):
                return done
        elif decided is not None:
            return resume_end(work, decided, retry)
        else:
            try:
                work.checkpoint()
                if (wait := work.too_early()) > 0:
                    return Outcome(ending=Ending.LIMITED, delay=wait)
                done = _begun(work, handler, hooks)
            except Canceled:
                if outcome_of is None or not claim.touched or claim.action.cancelable:
                    raise
                # An earlier attempt may have done it, and this one has not begun to.
                called = called_off(work, outcome_of, retry)
                if isinstance(called, Outcome):
                    return called
                done = called
        failed = hooks.after(work, done.result)
    except LeaseLost:
        return None
    except HandBack:
        return HANDED_BACK
    except Outage as problem:
        return until_back(work, problem)
    except StillWorking as problem:
        return Outcome(ending=Ending.LIMITED, problem=problem, delay=problem.seconds)
    except Problem as problem:
        if (outage := _outage_behind(work, problem)) is not None:
            return until_back(work, outage)
        return ended_badly(work, problem, retry)
    except Exception as error:
        log.exception("work.unforeseen_error", job=claim.job_id, action=claim.action.name)
        return ended_badly(work, unforeseen(error), retry)
    return Outcome(
        ending=Ending.SUCCEEDED,
        result={**done.result, "warnings": failed} if failed else done.result,
        changes=done.changes,
        audit={"before": done.before, "after": done.after},
        journaled=work.journaled,
    )


def _begun(work: Work, handler: Handler, hooks: Hooks) -> Done:
    if handler.action.needs_storage:
        work.check_identity()
    hooks.before(work)
    # What changes an existing volume says so itself, with `intend`.
    work.touched = work.touched or work.claim.action.creates
    work.began = True
    return handler.run(work)


def _outage_behind(work: Work, problem: Problem) -> Outage | None:
    """Whether a call has had no answer because all of the backend is out of reach."""
    if isinstance(problem, BackendUnavailable | TimedOut):
        try:
            work.check_identity()
            if work.claim.source_backend is not None:
                _ = work.source_driver
        except Outage as outage:
            return outage
        except Problem:
            pass
    return None
