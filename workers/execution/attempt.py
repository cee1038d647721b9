"""One attempt at one job, from its first look to its outcome."""

from __future__ import annotations

import structlog

from orchestrator.domain.errors import Problem, StillWorking
from orchestrator.jobs.claim import last_step
from orchestrator.jobs.finish import Ending, Outcome
from orchestrator.settings import RetrySettings
from workers.execution.ending import ended_badly, resume_end, unforeseen
from workers.execution.hooks import Hooks
from workers.execution.work import Handler, Undo, Work
from workers.leases import HandBack, LeaseLost

log = structlog.get_logger(__name__)

#: The attempt was broken off, and is not counted.
HANDED_BACK = Outcome(ending=Ending.HANDED_BACK)


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
            return resume_end(work, decided, retry)
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
