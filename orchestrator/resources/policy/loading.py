"""Loading export policies into an outlook, with the volumes and jobs that use them."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import select

from orchestrator.actions.registry import GIVING_POLICIES
from orchestrator.domain.exports import recorded_rules
from orchestrator.domain.outlook import Intent, Outlook, PolicyOutlook
from orchestrator.domain.states import PolicyState
from orchestrator.store.asking import Question, one_of
from orchestrator.store.conditions import live
from orchestrator.store.tables import backends, job_targets, jobs, policies, volumes
from orchestrator.store.transaction import Transaction

#: The most users of a policy that are looked at.
_USERS_SHOWN = 1000

_POLICIES = Question(
    select(policies, backends.c.name.label("backend"))
    .join(backends, backends.c.id == policies.c.backend_id)
    .where(
        live(policies),
        one_of(backends.c.name, "backends"),
        one_of(policies.c.name, "names"),
    )
)
_USERS = Question(
    select(volumes.c.id, volumes.c.name, volumes.c.policy_id)
    .where(one_of(volumes.c.policy_id, "ids"), live(volumes))
    .limit(_USERS_SHOWN)
)
#: Unfinished jobs that mean these policies without holding their lanes.
_MEANING = Question(
    select(jobs.c.id, job_targets.c.name.label("policy"), backends.c.name.label("backend"))
    .join(job_targets, job_targets.c.job_id == jobs.c.id)
    .join(backends, backends.c.id == jobs.c.backend_id)
    .where(
        one_of(backends.c.name, "backends"),
        job_targets.c.kind == "policy",
        one_of(job_targets.c.name, "names"),
        jobs.c.action.in_(GIVING_POLICIES),
        jobs.c.finished_at.is_(None),
    )
    .order_by(jobs.c.id)
)


def load_policies(
    transaction: Transaction, outlook: Outlook, intents: Iterable[Intent], own_jobs: frozenset[int]
) -> None:
    """Load the policies that these intents name.

    Policies that ``own_jobs`` are about to make do not count as there.
    """
    named: set[tuple[str, str]] = set()
    removing = False
    for intent in intents:
        if (policy := intent.export_policy) is not None:
            named.add(policy)
            removing = removing or intent.action.removes
    if named:
        _load(transaction, outlook, named, own_jobs, users=removing)


def _load(
    transaction: Transaction,
    outlook: Outlook,
    named: set[tuple[str, str]],
    own_jobs: frozenset[int],
    *,
    users: bool,
) -> None:
    [rows] = transaction.ask(
        _POLICIES(backends=sorted({b for b, _ in named}), names=sorted({n for _, n in named})),
    )
    by_row: dict[int, PolicyOutlook] = {}
    for row in rows:
        place = row["backend"], row["name"]
        own = row["state"] == PolicyState.PENDING and row["created_by_job"] in own_jobs
        if place not in named or own:
            continue
        # One row that cannot be read must not keep a backend's jobs from being claimed.
        rules, state = recorded_rules(row["rules"]), PolicyState(row["state"])
        outlook.policies[place] = by_row[row["id"]] = PolicyOutlook(
            id=row["uid"],
            row_id=row["id"],
            name=row["name"],
            rules=rules or (),
            state=PolicyState.ERROR if rules is None else state,
            readable=rules is not None,
            native=row["native"],
        )
    if users and by_row:
        [using] = transaction.ask(_USERS(ids=sorted(by_row)))
        for row in using:
            by_row[row["policy_id"]].used_by[row["id"]] = row["name"]


def load_givers(
    transaction: Transaction, outlook: Outlook, intents: Iterable[Intent], own_jobs: frozenset[int]
) -> None:
    """Load which unfinished jobs, ``own_jobs`` aside, give volumes the policies that go."""
    removed = {
        policy
        for intent in intents
        if intent.action.removes and (policy := intent.export_policy) is not None
    }
    if not removed:
        return
    for place, job_ids in _meaning(transaction, removed).items():
        if (known := outlook.policies.get(place)) is not None:
            known.given_by = sorted(job_ids - own_jobs)


def _meaning(
    transaction: Transaction, named: set[tuple[str, str]]
) -> dict[tuple[str, str], set[int]]:
    """The unfinished jobs that give a volume one of these policies (backend, name)."""
    found: dict[tuple[str, str], set[int]] = {}
    [rows] = transaction.ask(
        _MEANING(backends=sorted({b for b, _ in named}), names=sorted({n for _, n in named})),
    )
    for row in rows:
        if (place := (row["backend"], row["policy"])) in named:
            found.setdefault(place, set()).add(row["id"])
    return found
