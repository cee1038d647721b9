"""Create an export policy."""

from __future__ import annotations

from orchestrator.actions.policy.create import CREATE
from orchestrator.domain.exports import parse_rules, written_rules
from orchestrator.domain.states import PolicyState
from orchestrator.resources.policy.changes import set_policy
from workers.backends.base.abilities import CanExportByPolicy
from workers.backends.base.call import Call
from workers.backends.base.driver import driver_that
from workers.execution.handler import Handler
from workers.execution.work import Done, Work, built_policy


def create_policy(work: Work) -> Done:
    """Make an export policy: build it, write down its key, and publish it."""
    rules = parse_rules(work.intent.params["rules"])
    if work.intended("built") is None:
        work.note(
            "built",
            native=driver_that(work.driver, CanExportByPolicy).build_policy(
                work.policy, rules, work
            ),
        )
    facts = driver_that(work.driver, CanExportByPolicy).publish_policy(built_policy(work), work)
    told = {"state": PolicyState.AVAILABLE, "rules": written_rules(rules)}
    return Done(
        result={"id": work.policy.id, "rules": written_rules(rules)},
        changes=[set_policy(work.policy.id, native=facts.native, **told)],
        after=told,
    )


def _discard(work: Work, call: Call) -> None:
    driver, built = driver_that(work.driver, CanExportByPolicy), built_policy(work)
    driver.discard_policy(built, call)
    if driver.inspect_policy(built) is not None:
        # It was published, though nobody heard of that.
        driver.remove_policy(built, call)


HANDLERS = (Handler(CREATE, create_policy, undo=_discard),)
