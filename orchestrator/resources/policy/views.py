"""Export policies as readers see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import RowMapping, func, select

from orchestrator.domain.errors import UnknownPolicy
from orchestrator.domain.lanes import policy_lane
from orchestrator.inventory.backends import backend_id
from orchestrator.store.bulk import among
from orchestrator.store.conditions import live
from orchestrator.store.tables import job_lanes, policies, volumes
from orchestrator.store.transaction import Transaction

View = dict[str, Any]


def list_policies(
    transaction: Transaction, backend: str, *, after: str | None, limit: int
) -> list[View]:
    """The live policies of a backend in the order of their names, above the name ``after``."""
    conditions = [
        policies.c.backend_id == backend_id(transaction, backend),
        live(policies),
    ]
    if after is not None:
        conditions.append(policies.c.name > after)
    rows = transaction.execute(
        select(policies).where(*conditions).order_by(policies.c.name).limit(limit)
    )
    return _views(transaction, backend, rows.mappings().all())


def policy_view(transaction: Transaction, backend: str, name: str) -> View:
    """One live policy. Raises `UnknownBackend`, `UnknownPolicy`."""
    row = (
        transaction.execute(
            select(policies).where(
                policies.c.backend_id == backend_id(transaction, backend),
                policies.c.name == name,
                live(policies),
            )
        )
        .mappings()
        .first()
    )
    if row is None:
        raise UnknownPolicy(f"backend {backend} has no export policy {name!r}", field="policy")
    return _views(transaction, backend, [row])[0]


def _views(transaction: Transaction, backend: str, rows: Sequence[RowMapping]) -> list[View]:
    if not rows:
        return []
    ids = [row["id"] for row in rows]
    used: dict[int, int] = dict(
        transaction.execute(
            select(volumes.c.policy_id, func.count())
            .where(among(volumes.c.policy_id, ids))
            .where(live(volumes))
            .group_by(volumes.c.policy_id)
        ).all()
    )
    lanes = {policy_lane(backend, row["name"]): row["id"] for row in rows}
    doing: dict[int, list[int]] = defaultdict(list)
    for lane, job_id in transaction.execute(
        select(job_lanes.c.lane, job_lanes.c.job_id)
        .where(among(job_lanes.c.lane, list(lanes)))
        .order_by(job_lanes.c.job_id)
    ):
        doing[lanes[lane]].append(job_id)
    return [
        {
            "id": row["uid"],
            "backend": backend,
            "name": row["name"],
            "state": row["state"],
            "rules": row["rules"],
            "volumes": used.get(row["id"], 0),
            "jobs": doing[row["id"]],
            "created_at": row["created_at"],
            "changed_at": row["changed_at"],
        }
        for row in rows
    ]
