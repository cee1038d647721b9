"""What accounts have and have been promised: always summed up from the rows, never kept.

A volume counts while it is there and usable, restricted or in error; one that is being made
counts as what its job promises, until that has ended.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    case,
    cast,
    func,
    literal_column,
    select,
    union_all,
)

from orchestrator.actions.quotas import COUNTED
from orchestrator.actions.registry import MAKING_SNAPSHOTS, MAKING_VOLUMES
from orchestrator.domain.states import SnapshotState, VolumeState
from orchestrator.store.asking import Asked, Question, one_of
from orchestrator.store.conditions import live
from orchestrator.store.tables import jobs, quotas, snapshots, volumes
from orchestrator.store.transaction import Transaction


def _nothing() -> dict[str, int]:
    return dict.fromkeys(COUNTED, 0)


@dataclass
class Usage:
    """What there is, and what unfinished jobs will add; by what is counted."""

    used: dict[str, int] = field(default_factory=_nothing)
    promised: dict[str, int] = field(default_factory=_nothing)


#: What counts as being there.
VOLUME_COUNTS: tuple[ColumnElement[bool], ...] = (
    # Said twice: the second is what the index of accounts is made with.
    volumes.c.state.in_([VolumeState.AVAILABLE, VolumeState.RESTRICTED, VolumeState.ERROR]),
    live(volumes),
)
SNAPSHOT_COUNTS: tuple[ColumnElement[bool], ...] = (
    snapshots.c.state != SnapshotState.PENDING,
    live(snapshots),
)
#: Volumes and snapshots that an unfinished job will make.
VOLUMES_MADE = case((jobs.c.action.in_(MAKING_VOLUMES), 1), else_=0)
SNAPSHOTS_MADE = case((jobs.c.action.in_(MAKING_SNAPSHOTS), 1), else_=0)

_LOCK = Question(
    select(quotas)
    .where(one_of(quotas.c.account, "accounts"), one_of(quotas.c.backend_id, "backends"))
    # In this order for everybody: two who lock several never wait for one another.
    .order_by(quotas.c.account, quotas.c.backend_id)
    .with_for_update()
)


def _summed(**sums: Any) -> list[ColumnElement[Any]]:
    """The columns of a part of `_USAGES`; 0 for those that it does not have."""
    names = [f"{kind}_{counted}" for kind in ("used", "promised") for counted in COUNTED]
    return [cast(sums.get(name, literal_column("0")), BigInteger).label(name) for name in names]


_snapshots_of = (
    select(func.count())
    .where(snapshots.c.volume_id == volumes.c.id, *SNAPSHOT_COUNTS)
    .scalar_subquery()
)
_have = (
    select(
        *(volumes.c.account, volumes.c.backend_id),
        *_summed(
            used_bytes=func.sum(volumes.c.size_bytes),
            used_volumes=func.count(),
            used_snapshots=func.sum(_snapshots_of),
        ),
    )
    .where(one_of(volumes.c.account, "accounts"), *VOLUME_COUNTS)
    .group_by(volumes.c.account, volumes.c.backend_id)
)
# No condition on the backend: of the indexes that there are, only that of unfinished jobs
# fits this.
_coming = (
    select(
        *(jobs.c.account, jobs.c.backend_id),
        *_summed(
            promised_bytes=func.sum(jobs.c.promised_bytes),
            promised_volumes=func.sum(VOLUMES_MADE),
            promised_snapshots=func.sum(SNAPSHOTS_MADE),
        ),
    )
    .where(one_of(jobs.c.account, "accounts"), jobs.c.finished_at.is_(None))
    .group_by(jobs.c.account, jobs.c.backend_id)
)
_USAGES = Question(select(union_all(_have, _coming).subquery()))


def locked_quotas(accounts: Iterable[str], backend_ids: Iterable[int]) -> Asked[Any]:
    """Ask for the quotas of these accounts on these backends, and lock them."""
    return _LOCK(accounts=sorted(accounts), backends=sorted(backend_ids))


def limits_of(row: Mapping[str, Any]) -> dict[str, int | None]:
    """A quota's limits by what is counted; None where there is none."""
    return {counted: row[f"max_{counted}"] for counted in COUNTED}


def usages(transaction: Transaction, accounts: Iterable[str]) -> dict[tuple[str, int], Usage]:
    """The usage of these accounts by account and backend (id); nothing where there is none.

    One statement, so that it sees one state of the database.
    """
    [rows] = transaction.ask(_USAGES(accounts=sorted(accounts)))
    found: dict[tuple[str, int], Usage] = defaultdict(Usage)
    for row in rows:
        usage = found[row["account"], row["backend_id"]]
        for counted in COUNTED:
            usage.used[counted] += int(row[f"used_{counted}"])
            usage.promised[counted] += int(row[f"promised_{counted}"])
    return found
