"""What is asked of export policies, and what they leave."""

from __future__ import annotations

from contextlib import suppress

from orchestrator.domain.drivers import DRIVERS
from orchestrator.domain.errors import (
    AlreadyExists,
    Conflict,
    InUse,
    InvalidInput,
    UnknownPolicy,
    Unsupported,
    WrongState,
)
from orchestrator.domain.exports import MAX_RULES, parse_rule, parse_rules, with_rule, without_rule
from orchestrator.domain.exports import Rule as ExportRule
from orchestrator.domain.states import PolicyState
from orchestrator.jobs.outlook import Intent, Outlook, PolicyOutlook, VolumeOutlook
from orchestrator.jobs.rules.targets import target_volume, volume_there


def _policy(outlook: Outlook, intent: Intent) -> PolicyOutlook | None:
    place = intent.export_policy
    return None if place is None else outlook.policies.get(place)


def _policy_there(outlook: Outlook, intent: Intent) -> PolicyOutlook:
    found = _policy(outlook, intent)
    if found is None or (intent.policy_id is not None and found.id != intent.policy_id):
        raise UnknownPolicy(
            f"backend {intent.backend} has no export policy {intent.policy!r}, or will have none "
            "by then: make it with policy.create",
            field="policy",
        )
    return found


def usable_policy(outlook: Outlook, intent: Intent) -> PolicyOutlook:
    found = _policy_there(outlook, intent)
    if found.state is not PolicyState.AVAILABLE:
        raise WrongState(
            f"export policy {found.name!r} is {found.state}: the engine looks at it again; or "
            "reapply it, name its rules anew with policy.set_rules, or remove it",
            field="policy",
        )
    return found


def _check_clients(outlook: Outlook, intent: Intent, written: list[str], field: str) -> None:
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


def check_create_policy(outlook: Outlook, intent: Intent) -> None:
    if _policy(outlook, intent) is not None:
        raise AlreadyExists(
            f"backend {intent.backend} has an export policy {intent.policy!r} already, or will "
            "have by then: choose another name",
            field="policy",
        )
    _check_clients(outlook, intent, intent.params["rules"], "params.rules")


def play_create_policy(outlook: Outlook, intent: Intent) -> None:
    assert intent.export_policy is not None  # noqa: S101 - the request model requires it
    outlook.policies[intent.export_policy] = PolicyOutlook(
        id=intent.policy_id or "",
        row_id=None,
        name=intent.export_policy[1],
        rules=parse_rules(intent.params["rules"]),
    )


def check_remove_policy(outlook: Outlook, intent: Intent) -> None:
    found = _policy_there(outlook, intent)
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


def play_remove_policy(outlook: Outlook, intent: Intent) -> None:
    if intent.export_policy is not None:
        outlook.policies.pop(intent.export_policy, None)


def rules_wanted(intent: Intent, policy: PolicyOutlook) -> tuple[ExportRule, ...]:
    """The rules that a policy shall have after this. Raises `Conflict`."""
    match intent.action.verb:
        case "add_rule":
            return with_rule(policy.rules, parse_rule(intent.params["rule"]))
        case "remove_rule":
            return without_rule(policy.rules, parse_rule(intent.params["rule"]))
        case "set_rules":
            return parse_rules(intent.params["rules"])
    return policy.rules


def check_rules(outlook: Outlook, intent: Intent) -> None:
    # To name all rules anew mends a policy in error.
    anew = intent.action.verb == "set_rules"
    policy = _policy_there(outlook, intent) if anew else usable_policy(outlook, intent)
    wanted = rules_wanted(intent, policy)
    if len(wanted) > MAX_RULES:
        raise InvalidInput(
            f"export policy {policy.name!r} would have more than {MAX_RULES} rules: name networks "
            "instead of addresses",
            field="params",
        )
    new = [rule.written for rule in wanted if rule not in policy.rules]
    _check_clients(outlook, intent, new, "params")


def play_rules(outlook: Outlook, intent: Intent) -> None:
    if policy := _policy(outlook, intent):
        with suppress(Conflict):
            policy.rules = rules_wanted(intent, policy)


def check_reapply(outlook: Outlook, intent: Intent) -> None:
    policy = _policy_there(outlook, intent)
    if not policy.readable:
        raise WrongState(
            f"what is recorded of export policy {policy.name!r} cannot be read: name its rules "
            "anew with policy.set_rules",
            field="policy",
        )


def play_reapply(outlook: Outlook, intent: Intent) -> None:
    if policy := _policy(outlook, intent):
        policy.state = PolicyState.AVAILABLE


def check_assign(outlook: Outlook, intent: Intent) -> None:
    volume_there(outlook, intent)
    if intent.policy is not None:
        usable_policy(outlook, intent)


def play_assign(outlook: Outlook, intent: Intent) -> None:
    if volume := target_volume(outlook, intent):
        play_unassign(outlook, volume)
        volume.policy = intent.policy
        if policy := _policy(outlook, intent):
            policy.used_by[volume.id] = volume.name


def play_unassign(outlook: Outlook, volume: VolumeOutlook) -> None:
    for policy in outlook.policies.values():
        policy.used_by.pop(volume.id, None)
    volume.policy = None
