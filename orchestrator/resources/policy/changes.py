"""Changes to the record of export policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import update

from orchestrator.domain.states import PolicyState
from orchestrator.resources.changes import Set, Written
from orchestrator.store.bulk import among
from orchestrator.store.tables import policies
from orchestrator.store.transaction import Transaction


def set_policy(policy_id: str, **values: Any) -> Set:
    """Set columns of an export policy."""
    return Set(policies, policy_id, values, key="uid")


@dataclass(frozen=True)
class PolicyGone(Written):
    """The export policy no longer exists."""

    policy_id: str

    @classmethod
    def write(cls, transaction: Transaction, changes: Sequence[PolicyGone], now: datetime) -> None:
        """Mark the rows."""
        ids = [change.policy_id for change in changes]
        transaction.execute(
            update(policies)
            .where(among(policies.c.uid, ids))
            .values(state=PolicyState.REMOVED, removed_at=now, changed_at=now)
        )
