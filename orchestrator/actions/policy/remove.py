"""Remove an export policy that no volume has."""

from __future__ import annotations

from orchestrator.actions.policy.targets import policy_there
from orchestrator.domain.action import Action, Checks, Lane, Takes
from orchestrator.domain.errors import InUse
from orchestrator.domain.outlook import Intent, Outlook


def _check(outlook: Outlook, intent: Intent) -> None:
    found = policy_there(outlook, intent)
    if found.used_by:
        names = sorted(found.used_by.values())
        raise InUse(
            f"export policy {found.name!r} is that of {', '.join(names[:10])}"
            f"{f' and {len(names) - 10} more' if len(names) > 10 else ''}: give them another "
            "one first",
            field="policy",
            volumes=names[:10],
        )
    if found.given_by:
        raise InUse(
            f"job {found.given_by[0]} gives export policy {found.name!r} to a volume: wait for its "
            "end",
            field="policy",
            job=found.given_by[0],
        )


def _play(outlook: Outlook, intent: Intent) -> None:
    if intent.export_policy is not None:
        outlook.policies.pop(intent.export_policy, None)


REMOVE = Action(
    name="policy.remove",
    order=300,
    summary="Remove an export policy that no volume has.",
    audit="removed export policy {policy}",
    checks=Checks(check=_check, effect=_play),
    takes=(Takes("policy"),),
    lanes=(Lane.NAMED,),
    capability="policy",
    destructive=True,
    removes=True,
    route=("DELETE", "/policies/{policy}"),
)
