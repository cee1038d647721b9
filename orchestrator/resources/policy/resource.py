"""Export policies, as the engine knows them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from orchestrator.contract import inventory as answers
from orchestrator.domain.outlook import Intent, Outlook, VolumeOutlook
from orchestrator.domain.states import PolicyState
from orchestrator.resources.changes import Change
from orchestrator.resources.policy.changes import PolicyGone, set_policy
from orchestrator.resources.policy.loading import load_givers, load_policies
from orchestrator.resources.policy.views import View, list_policies, policy_view
from orchestrator.resources.resource import Listed, Making, Named, Resource
from orchestrator.store.tables import policies
from orchestrator.store.transaction import Transaction


class Policy(Resource, Listed):
    """Export policies."""

    kind = "policy"
    table = policies
    key = policies.c.uid
    answer = answers.Policy

    def named(self, outlook: Outlook, request: Named, origin: VolumeOutlook | None) -> str | None:
        """The id of the policy of this name."""
        if (name := request.name_of(self.kind)) is None:
            return None
        policy = outlook.policies.get((request.backend, name))
        return None if policy is None else policy.id

    def load(
        self,
        transaction: Transaction,
        outlook: Outlook,
        intents: Sequence[Intent],
        own_jobs: frozenset[int],
        *,
        users: bool,
    ) -> None:
        """The policies; of those that go, who has them, and which jobs give them."""
        load_policies(transaction, outlook, intents, own_jobs)
        if users:
            load_givers(transaction, outlook, intents, own_jobs)

    def pending(self, making: Making, now: datetime) -> dict[str, Any]:
        """A policy with the rules that were asked for."""
        return {
            "uid": making.intent.policy_id,
            "backend_id": making.backend_id,
            "name": making.intent.policy,
            "rules": list(making.intent.params["rules"]),
            "state": PolicyState.PENDING,
            "created_by_job": making.job_id,
            "created_at": now,
            "changed_at": now,
        }

    def gone(self, id_: str) -> Change:
        """The policy is not there."""
        return PolicyGone(id_)

    def unseen(self, intent: Intent, why: str, now: datetime) -> Sequence[Change]:
        """The policy is in error; the scheduler finds it by that."""
        return [set_policy(intent.policy_id or "", state=PolicyState.ERROR)]

    def listed(
        self, transaction: Transaction, backend: str, *, after: str | None, limit: int
    ) -> Sequence[View]:
        """The live policies of a backend."""
        return list_policies(transaction, backend, after=after, limit=limit)

    def shown(self, transaction: Transaction, backend: str, name: str) -> View:
        """The live policy of this name. Raises `UnknownPolicy`."""
        return policy_view(transaction, backend, name)
