"""Give an export policy the rules that it is to have."""

from __future__ import annotations

from orchestrator.actions.policy.rules import (
    ADD_RULE,
    REAPPLY,
    REMOVE_RULE,
    SET_RULES,
    rules_wanted,
)
from orchestrator.domain.errors import Conflict, WrongState
from orchestrator.domain.exports import written_rules
from orchestrator.domain.outlook import PolicyOutlook
from orchestrator.domain.states import PolicyState
from orchestrator.resources.policy.changes import set_policy
from workers.actions.policy.verify import never_usable
from workers.backends.base.abilities import CanExportByPolicy
from workers.backends.base.driver import driver_that
from workers.backends.base.facts import PolicyFacts
from workers.execution.handler import Handler
from workers.execution.outcomes import Become, Nothing, Part, Whole, of_policy
from workers.execution.truth import LastCall
from workers.execution.work import Done, Work


def change_rules(work: Work) -> Done:
    """Give an export policy the rules that the action asks for; all of them are written anew."""
    record = policy_record(work)
    if record.state is PolicyState.ERROR and never_usable(work) is not None:
        raise WrongState(
            f"export policy {record.name!r} was never made: its job failed. Once the engine has "
            "removed what is left of it, create it with policy.create",
            field="policy",
        )
    wanted = rules_wanted(work.intent, record)
    rules = written_rules(wanted)
    if work.intent.action.verb in ("add_rule", "remove_rule"):
        _refuse_drift(work, record)
    if wanted != record.rules or work.intent.action.verb == "reapply":
        work.intend("set_rules", rules=rules)
        driver_that(work.driver, CanExportByPolicy).set_rules(work.policy, wanted, work)
    return Done(
        result={"rules": rules},
        changes=[set_policy(record.id, rules=rules, state=PolicyState.AVAILABLE)],
        before={"rules": written_rules(record.rules)},
        after={"rules": rules},
    )


def policy_record(work: Work) -> PolicyOutlook:
    """The policy as the inventory has it; the rules made sure that there is one."""
    assert work.claim.policy is not None  # noqa: S101
    return work.claim.policy


def _refuse_drift(work: Work, record: PolicyOutlook) -> None:
    """Refuse to change one rule where others are not as recorded: they would be written over."""
    if work.intended("set_rules") is not None:
        return  # an earlier attempt has begun to write them
    found = driver_that(work.driver, CanExportByPolicy).inspect_policy(work.policy)
    if found is not None and found.rules != record.rules:
        raise Conflict(
            f"the storage's rules of export policy {record.name!r} are "
            f"{', '.join(written_rules(found.rules)) or 'none'}, and recorded are "
            f"{', '.join(written_rules(record.rules)) or 'none'}: somebody has changed them; "
            "name all rules anew with policy.set_rules, or write the recorded ones with "
            "policy.reapply",
            rules=written_rules(found.rules),
        )


def _outcome(work: Work, found: PolicyFacts | None) -> Become:
    record = work.claim.policy
    assert record is not None  # noqa: S101 - the rule has checked it
    if found is None:
        return Part("the policy is not there")
    wanted = rules_wanted(work.intent, record)
    if found.rules == wanted:
        # Written once more by this claim, they stay: earlier claims are shut out.
        driver_that(work.driver, CanExportByPolicy).set_rules(work.policy, wanted, LastCall(work))
        rules = written_rules(wanted)
        told = set_policy(record.id, rules=rules, state=PolicyState.AVAILABLE)
        return Whole(
            Done(
                result={"rules": rules},
                changes=[told],
                before={"rules": written_rules(record.rules)},
                after={"rules": rules},
            )
        )
    if found.rules == record.rules:
        return Nothing()
    rules = written_rules(found.rules)
    return Part(f"its rules are {', '.join(rules) or 'none'}", {"rules": rules})


HANDLERS = (
    Handler(ADD_RULE, change_rules, outcome=of_policy(_outcome)),
    Handler(REMOVE_RULE, change_rules, outcome=of_policy(_outcome)),
    Handler(SET_RULES, change_rules, outcome=of_policy(_outcome)),
    Handler(REAPPLY, change_rules, outcome=of_policy(_outcome)),
)
