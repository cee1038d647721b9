"""Findings about export policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import select

from orchestrator.domain.exports import is_ours, recorded_rules, written_rules
from orchestrator.domain.lanes import policy_lane
from orchestrator.domain.states import FindingKind
from orchestrator.findings.recording import Finding
from orchestrator.store.conditions import live
from orchestrator.store.tables import policies
from orchestrator.store.transaction import Transaction
from workers.backends.base.facts import PolicyFacts
from workers.execution.auditing.seen import Seen
from workers.execution.work import Work


def compare_policies(
    work: Work, transaction: Transaction, found: Mapping[str, PolicyFacts], seen: Seen
) -> Iterator[Finding]:
    """What is recorded of policies otherwise than it is; those of others are left out."""
    if "policy" not in work.driver.capabilities():
        return
    rows = transaction.execute(
        select(policies)
        .where(
            policies.c.backend_id == work.claim.backend_id,
            live(policies),
        )
        .order_by(policies.c.name)
    ).all()
    for row in rows:
        if not seen.is_busy(policy_lane(work.intent.backend, row.name)):
            yield from _compare(row, found.get(row.name))
    recorded = {row.name for row in rows}
    for name, facts in sorted(found.items()):
        if (
            facts.id is not None
            and name not in recorded
            and not seen.is_busy(policy_lane(work.intent.backend, name))
        ):
            yield Finding(
                kind=FindingKind.POLICY,
                subject=f"policy {name}",
                text=f"export policy {name!r} bears a stamp of ours and is not recorded: take it "
                "away by hand, or leave it",
                policy=name[:255],
                detail={"recorded": None, "found": written_rules(facts.rules)},
            )


def _compare(row: Any, facts: PolicyFacts | None) -> Iterator[Finding]:
    kept = recorded_rules(row.rules)
    if facts is not None and kept == facts.rules:
        return
    if facts is None:
        text = "is recorded, and the storage has none"
    elif kept is None:
        text = f"has a record that cannot be read: {row.rules}"
    else:
        told = ", ".join(written_rules(facts.rules)) or "none"
        text = f"is to have the rules {', '.join(row.rules) or 'none'}, and the storage has {told}"
    yield Finding(
        kind=FindingKind.POLICY,
        subject=f"policy {row.name}",
        text=f"export policy {row.name!r} {text}",
        policy=row.name,
        detail={
            "recorded": None if kept is None else list(row.rules),
            "found": None if facts is None else written_rules(facts.rules),
            # What we have no words for cannot be recorded.
            "foreign_rules": facts is not None and not all(is_ours(rule) for rule in facts.rules),
        },
    )
