"""Compare an export policy with the storage."""

from __future__ import annotations

from orchestrator.actions.policy.rules import check_readable
from orchestrator.domain.action import Action, Checks, Lane, Takes

VERIFY = Action(
    name="policy.verify",
    order=360,
    summary="Compare an export policy with the storage; one in error takes the storage's rules.",
    audit="verified export policy {policy}",
    checks=Checks(check=check_readable),
    takes=(Takes("policy"),),
    lanes=(Lane.NAMED,),
    capability="policy",
    journaled=False,
    route=("POST", "/policies/{policy}/verify"),
)
