"""Change the rules of an export policy, or write them to the storage again."""

from __future__ import annotations

from contextlib import suppress

from orchestrator.actions.policy.targets import (
    check_clients,
    policy_there,
    target_policy,
    usable_policy,
)
from orchestrator.domain.action import Action, Checks, Lane, Params, Takes
from orchestrator.domain.errors import Conflict, InvalidInput, WrongState
from orchestrator.domain.exports import (
    MAX_RULES,
    Rule,
    RuleText,
    RuleTexts,
    parse_rule,
    parse_rules,
    with_rule,
    without_rule,
)
from orchestrator.domain.outlook import Intent, Outlook, PolicyOutlook
from orchestrator.domain.states import PolicyState


class RulesParams(Params):
    """Who may mount the volumes that have the policy, instead of all that were named before."""

    rules: RuleTexts


class RuleParams(Params):
    """One rule; it is the same rule however it is written."""

    rule: RuleText


def rules_wanted(intent: Intent, policy: PolicyOutlook) -> tuple[Rule, ...]:
    """The rules that a policy will have after this. Raises `Conflict`."""
    match intent.action.verb:
        case "add_rule":
            return with_rule(policy.rules, parse_rule(intent.params["rule"]))
        case "remove_rule":
            return without_rule(policy.rules, parse_rule(intent.params["rule"]))
        case "set_rules":
            return parse_rules(intent.params["rules"])
    return policy.rules


def _check(outlook: Outlook, intent: Intent) -> None:
    # Replacing all rules repairs a policy in error.
    replaces = intent.action.verb == "set_rules"
    policy = policy_there(outlook, intent) if replaces else usable_policy(outlook, intent)
    wanted = rules_wanted(intent, policy)
    if len(wanted) > MAX_RULES:
        raise InvalidInput(
            f"export policy {policy.name!r} would have more than {MAX_RULES} rules: name networks "
            "instead of addresses",
            field="params",
        )
    new = [rule.written for rule in wanted if rule not in policy.rules]
    check_clients(outlook, intent, new, "params")


def _play(outlook: Outlook, intent: Intent) -> None:
    if policy := target_policy(outlook, intent):
        with suppress(Conflict):
            policy.rules = rules_wanted(intent, policy)


def check_readable(outlook: Outlook, intent: Intent) -> None:
    policy = policy_there(outlook, intent)
    if not policy.readable:
        raise WrongState(
            f"what is recorded of export policy {policy.name!r} cannot be read: set its rules "
            "again with policy.set_rules",
            field="policy",
        )


def _play_reapply(outlook: Outlook, intent: Intent) -> None:
    if policy := target_policy(outlook, intent):
        policy.state = PolicyState.AVAILABLE


ADD_RULE = Action(
    name="policy.add_rule",
    order=310,
    summary="Add a rule at the end of an export policy, unless it is there.",
    audit="added a rule to export policy {policy}",
    params=RuleParams,
    checks=Checks(check=_check, effect=_play),
    takes=(Takes("policy"),),
    lanes=(Lane.NAMED,),
    capability="policy",
    route=("POST", "/policies/{policy}/add_rule"),
)

REMOVE_RULE = Action(
    name="policy.remove_rule",
    order=320,
    summary="Remove a rule from an export policy, if it is there.",
    audit="took a rule out of export policy {policy}",
    params=RuleParams,
    checks=Checks(check=_check, effect=_play),
    takes=(Takes("policy"),),
    lanes=(Lane.NAMED,),
    capability="policy",
    route=("POST", "/policies/{policy}/remove_rule"),
)

SET_RULES = Action(
    name="policy.set_rules",
    order=330,
    summary="Replace the rules of an export policy.",
    audit="replaced the rules of export policy {policy}",
    params=RulesParams,
    checks=Checks(check=_check, effect=_play),
    takes=(Takes("policy"),),
    lanes=(Lane.NAMED,),
    capability="policy",
    route=("PUT", "/policies/{policy}/rules"),
)

REAPPLY = Action(
    name="policy.reapply",
    order=350,
    summary="Write the recorded rules of an export policy to the storage again.",
    audit="applied export policy {policy} again",
    checks=Checks(check=check_readable, effect=_play_reapply),
    takes=(Takes("policy"),),
    lanes=(Lane.NAMED,),
    capability="policy",
    route=("POST", "/policies/{policy}/reapply"),
)
