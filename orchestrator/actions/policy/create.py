"""Create an export policy."""

from __future__ import annotations

from pydantic import Field

from orchestrator.actions.policy.targets import check_clients, target_policy
from orchestrator.domain.action import Action, Checks, Lane, Params, Takes
from orchestrator.domain.errors import AlreadyExists
from orchestrator.domain.exports import RuleTexts, parse_rules
from orchestrator.domain.outlook import Intent, Outlook, PolicyOutlook


class PolicyParams(Params):
    """Who may mount the volumes that have the policy."""

    rules: RuleTexts = Field(default_factory=list)


def _check(outlook: Outlook, intent: Intent) -> None:
    if target_policy(outlook, intent) is not None:
        raise AlreadyExists(
            f"backend {intent.backend} has an export policy {intent.policy!r} already, or will "
            "have by then: choose another name",
            field="policy",
        )
    check_clients(outlook, intent, intent.params["rules"], "params.rules")


def _play(outlook: Outlook, intent: Intent) -> None:
    assert intent.export_policy is not None  # noqa: S101 - the request model requires it
    outlook.policies[intent.export_policy] = PolicyOutlook(
        id=intent.policy_id or "",
        row_id=None,
        name=intent.export_policy[1],
        rules=parse_rules(intent.params["rules"]),
    )


CREATE = Action(
    name="policy.create",
    order=290,
    summary="Create an export policy.",
    audit="made export policy {policy}",
    params=PolicyParams,
    checks=Checks(check=_check, effect=_play),
    takes=(Takes("policy"),),
    lanes=(Lane.NAMED,),
    capability="policy",
    creates=True,
    route=("POST", "/policies"),
)
