"""The export policy that an action is about, and what all kinds of checks ask of it."""

from __future__ import annotations

from orchestrator.domain.errors import UnknownPolicy, Unsupported, WrongState
from orchestrator.domain.exports import parse_rule
from orchestrator.domain.installed import DRIVERS
from orchestrator.domain.outlook import Intent, Outlook, PolicyOutlook
from orchestrator.domain.states import PolicyState


def target_policy(outlook: Outlook, intent: Intent) -> PolicyOutlook | None:
    place = intent.export_policy
    return None if place is None else outlook.policies.get(place)


def policy_there(outlook: Outlook, intent: Intent) -> PolicyOutlook:
    found = target_policy(outlook, intent)
    if found is None or (intent.policy_id is not None and found.id != intent.policy_id):
        raise UnknownPolicy(
            f"backend {intent.backend} has no export policy {intent.policy!r}, or will have none "
            "by then: make it with policy.create",
            field="policy",
        )
    return found


def usable_policy(outlook: Outlook, intent: Intent) -> PolicyOutlook:
    found = policy_there(outlook, intent)
    if found.state is not PolicyState.AVAILABLE:
        raise WrongState(
            f"export policy {found.name!r} is {found.state}: the engine looks at it again; or "
            "reapply it, name its rules anew with policy.set_rules, or remove it",
            field="policy",
        )
    return found


def check_clients(outlook: Outlook, intent: Intent, written: list[str], field: str) -> None:
    """Whether the backend knows clients that are named so."""
    backend = outlook.backend(intent.backend)
    known = DRIVERS[backend.driver].clients
    for text in written:
        rule = parse_rule(text)
        if rule.kind not in known:
            raise Unsupported(
                f"{rule.written!r} names clients by {rule.kind}; backend {backend.name} (driver "
                f"{backend.driver}) knows them by {', '.join(sorted(known))}",
                field=field,
            )
