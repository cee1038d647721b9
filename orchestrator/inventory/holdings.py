"""What an account has, row by row: the rows from which its usage is summed up."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, func, or_, select

from orchestrator.actions.quotas import COUNTED
from orchestrator.inventory.backends import backend_id
from orchestrator.inventory.quotas import quotas_of
from orchestrator.inventory.usage import (
    SNAPSHOT_COUNTS,
    SNAPSHOTS_MADE,
    VOLUME_COUNTS,
    VOLUMES_MADE,
    Usage,
    usages,
)
from orchestrator.store.tables import backends, jobs, snapshots, volume_versions, volumes
from orchestrator.store.transaction import Transaction

View = dict[str, Any]
#: Where a page of entries ends: what kind the last entry is of, its backend (id), its id.
Place = tuple[str, int, str]


def account_view(
    transaction: Transaction,
    account: str,
    *,
    backend: str | None = None,
    at: datetime | None = None,
    after: Place | None = None,
    limit: int,
) -> tuple[View, Place | None]:
    """An account's limits and usage by backend, and a page of entries; the last one's place.

    Of the whole state, now or ``at`` a time: then of its volumes alone.
    """
    only = None if backend is None else backend_id(transaction, backend)
    if at is None:
        found = {id_: usage for (_, id_), usage in usages(transaction, [account]).items()}
        limits = quotas_of(transaction, account)
    else:
        found, limits = _usages_at(transaction, account, at), {}
    names = dict(transaction.execute(select(backends.c.id, backends.c.name)).all())
    told = [
        {
            "backend": names[id_],
            **limits.get(id_, {f"max_{counted}": None for counted in COUNTED}),
            **_amounts(found.get(id_, Usage()), then=at is not None),
        }
        for id_ in sorted(found.keys() | limits.keys(), key=lambda id_: names[id_])
        if only in (None, id_)
    ]
    entries, last = _entries(transaction, account, only, at, after, limit)
    for entry in entries:
        entry["backend"] = names[entry["backend"]]
    return {"account": account, "at": at, "backends": told, "entries": entries}, last


def _amounts(usage: Usage, *, then: bool) -> View:
    if then:
        return {"used": {**usage.used, "snapshots": None}, "promised": None}
    return {"used": usage.used, "promised": usage.promised}


def _entries(
    transaction: Transaction,
    account: str,
    backend: int | None,
    at: datetime | None,
    after: Place | None,
    limit: int,
) -> tuple[list[View], Place | None]:
    """A page of entries: volumes first, then unfinished jobs."""
    entries: list[View] = []
    last: Place | None = None
    if after is None or after[0] == "volume":
        statement = _volumes(account) if at is None else _volumes_at(account, at)
        table = volumes if at is None else volume_versions
        id_ = volumes.c.id if at is None else volume_versions.c.volume_id
        rows = _page(transaction, statement, table.c.backend_id, id_, backend, after, limit)
        entries = [_volume(row, then=at is not None) for row in rows]
        last = ("volume", rows[-1].backend_id, rows[-1].id) if rows else None
        after = None
    if at is None and len(entries) < limit:
        rows = _page(
            *(transaction, _jobs(account), jobs.c.backend_id, jobs.c.id),
            *(backend, after, limit - len(entries)),
        )
        entries += [_job(row) for row in rows]
        last = ("job", rows[-1].backend_id, str(rows[-1].id)) if rows else last
    return entries, last if len(entries) == limit else None


def _page(
    transaction: Transaction,
    statement: Select[Any],
    backend_of: ColumnElement[int],
    id_of: ColumnElement[Any],
    backend: int | None,
    after: Place | None,
    limit: int,
) -> list[Row[Any]]:
    """The next rows, by backend and id."""
    if backend is not None:
        statement = statement.where(backend_of == backend)
    if after is not None:
        id_: Any = int(after[2]) if after[0] == "job" else after[2]
        statement = statement.where(
            or_(backend_of > after[1], and_(backend_of == after[1], id_of > id_))
        )
    return list(transaction.execute(statement.order_by(backend_of, id_of).limit(limit)).all())


def _volumes(account: str) -> Select[Any]:
    kept = (
        select(func.count())
        .where(snapshots.c.volume_id == volumes.c.id, *SNAPSHOT_COUNTS)
        .scalar_subquery()
        .label("snapshots")
    )
    return select(
        *(volumes.c.backend_id, volumes.c.id, volumes.c.name, volumes.c.state),
        *(volumes.c.size_bytes, volumes.c.created_at, volumes.c.created_by_job, kept),
    ).where(volumes.c.account == account, *VOLUME_COUNTS)


def _volumes_at(account: str, at: datetime) -> Select[Any]:
    version = volume_versions.c
    return (
        select(
            *(version.backend_id, version.volume_id.label("id"), version.name, version.state),
            *(version.size_bytes, volumes.c.created_at, volumes.c.created_by_job),
        )
        .outerjoin(volumes, volumes.c.id == version.volume_id)
        .where(*_valid(account, at))
    )


def _valid(account: str, at: datetime) -> tuple[ColumnElement[bool], ...]:
    version = volume_versions.c
    return (
        version.account == account,
        version.valid_from <= at,
        or_(version.valid_to.is_(None), version.valid_to > at),
    )


def _usages_at(transaction: Transaction, account: str, at: datetime) -> dict[int, Usage]:
    version = volume_versions.c
    rows = transaction.execute(
        select(version.backend_id, func.sum(version.size_bytes), func.count())
        .where(*_valid(account, at))
        .group_by(version.backend_id)
    )
    return {
        backend: Usage({"bytes": int(size), "volumes": count, "snapshots": 0})
        for backend, size, count in rows
    }


def _jobs(account: str) -> Select[Any]:
    return select(
        *(jobs.c.backend_id, jobs.c.id, jobs.c.action, jobs.c.volume, jobs.c.volume_id),
        *(jobs.c.snapshot, jobs.c.state, jobs.c.promised_bytes, jobs.c.created_at),
        *(VOLUMES_MADE.label("volumes"), SNAPSHOTS_MADE.label("snapshots")),
    ).where(
        jobs.c.account == account,
        jobs.c.finished_at.is_(None),
        or_(jobs.c.promised_bytes > 0, VOLUMES_MADE + SNAPSHOTS_MADE > 0),
    )


def _volume(row: Row[Any], *, then: bool) -> View:
    return {
        "kind": "volume",
        "backend": row.backend_id,
        "volume": row.name,
        "volume_id": row.id,
        "state": row.state,
        "bytes": row.size_bytes,
        "volumes": 1,
        "snapshots": None if then else row.snapshots,
        "since": row.created_at,
        "job": row.created_by_job,
    }


def _job(row: Row[Any]) -> View:
    return {
        "kind": "job",
        "backend": row.backend_id,
        "volume": row.volume,
        "volume_id": row.volume_id,
        "snapshot": row.snapshot,
        "action": row.action,
        "state": row.state,
        "bytes": row.promised_bytes,
        "volumes": row.volumes,
        "snapshots": row.snapshots,
        "since": row.created_at,
        "job": row.id,
    }
