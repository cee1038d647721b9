"""Remove an export policy."""

from __future__ import annotations

from orchestrator.actions.policy.remove import REMOVE
from orchestrator.domain.exports import written_rules
from orchestrator.domain.states import PolicyState
from orchestrator.resources.policy.changes import PolicyGone
from workers.actions.policy.rules import policy_record
from workers.actions.policy.verify import never_usable
from workers.backends.base.abilities import CanExportByPolicy
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import PolicyFacts
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Whole, of_policy
from workers.execution.work import Done, Work


def remove_policy(work: Work) -> Done:
    """Remove an export policy."""
    record = policy_record(work)
    work.intend("remove")
    # What failed in the making may have been published: by the key that it has got it is known.
    built = never_usable(work) if record.state is PolicyState.ERROR else None
    driver_that(work.driver, CanExportByPolicy).remove_policy(built or work.policy, work)
    return Done(
        changes=[PolicyGone(work.policy.id)],
        before={"rules": written_rules(record.rules)},
        after={"state": PolicyState.REMOVED},
    )


def _outcome(work: Work, found: PolicyFacts | None) -> Become:
    if found is not None:
        return Nothing()
    return Whole(Done(changes=[PolicyGone(work.policy.id)], after={"state": PolicyState.REMOVED}))


HANDLERS = (Handler(REMOVE, remove_policy, outcome=of_policy(_outcome)),)
