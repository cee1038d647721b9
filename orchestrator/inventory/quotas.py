"""Quotas: the most that an account may have on a backend; set, removed, listed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import RowMapping, and_, delete, insert, or_, select, update

from orchestrator.domain.errors import NotFound
from orchestrator.domain.states import EventKind
from orchestrator.history.events import Event, record
from orchestrator.inventory.backends import backend_id, ids_of
from orchestrator.inventory.usage import Usage, limits_of, usages
from orchestrator.store.columns import db_now
from orchestrator.store.tables import backends, quotas
from orchestrator.store.transaction import Transaction

View = dict[str, Any]


def set_quota(
    transaction: Transaction,
    account: str,
    backend: str,
    limits: Mapping[str, int | None],
    actor: str,
    reason: str | None,
) -> View:
    """Set the limits, by what is counted, in place of any before; the quota as it then is.

    They may be below what there is: that stays, and no more is accepted.
    """
    where, before = _locked(transaction, account, backend)
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    values = {
        **{f"max_{counted}": limit for counted, limit in limits.items()},
        "set_by": actor,
        "set_at": now,
    }
    if before is None:
        key = {"account": account, "backend_id": backend_id(transaction, backend)}
        transaction.execute(insert(quotas).values(**key, **values))
    else:
        transaction.execute(update(quotas).where(where).values(**values))
    row = transaction.execute(_QUOTAS.where(where)).mappings().one()
    told = None if before is None else _limits(before)
    _record(
        transaction, EventKind.QUOTA_SET, account, backend, actor, reason, told, _limits(row), now
    )
    return _view(row, usages(transaction, [account])[account, row["backend_id"]])


def remove_quota(
    transaction: Transaction, account: str, backend: str, actor: str, reason: str | None
) -> None:
    """Let the account have on the backend whatever fits. Raises `NotFound`."""
    where, before = _locked(transaction, account, backend)
    if before is None:
        raise NotFound(f"account {account} has no quota on backend {backend}", field="account")
    transaction.execute(delete(quotas).where(where))
    now: datetime = transaction.execute(select(db_now())).scalar_one()
    told = _limits(before)
    _record(transaction, EventKind.QUOTA_REMOVED, account, backend, actor, reason, told, None, now)


def list_quotas(
    transaction: Transaction,
    *,
    account: str | None = None,
    backend: str | None = None,
    after: tuple[str, str] | None = None,
    limit: int,
) -> list[View]:
    """Quotas with what is used of them, by account, after that of ``after`` (account, backend)."""
    conditions = []
    if account is not None:
        conditions.append(quotas.c.account == account)
    if backend is not None:
        conditions.append(quotas.c.backend_id == backend_id(transaction, backend))
    if after is not None:
        last, id_ = after[0], ids_of(transaction, [after[1]]).get(after[1], 0)
        same = and_(quotas.c.account == last, quotas.c.backend_id > id_)
        conditions.append(or_(quotas.c.account > last, same))
    statement = _QUOTAS.where(*conditions).order_by(quotas.c.account, quotas.c.backend_id)
    rows = transaction.execute(statement.limit(limit)).mappings().all()
    found = usages(transaction, {row["account"] for row in rows}) if rows else {}
    return [_view(row, found.get((row["account"], row["backend_id"]), Usage())) for row in rows]


def quotas_of(transaction: Transaction, account: str) -> dict[int, View]:
    """The limits of an account, by backend (id)."""
    rows = transaction.execute(_QUOTAS.where(quotas.c.account == account)).mappings()
    return {row["backend_id"]: _limits(row) for row in rows}


_QUOTAS = select(quotas, backends.c.name.label("backend")).join(
    backends, backends.c.id == quotas.c.backend_id
)


def _locked(transaction: Transaction, account: str, backend: str) -> tuple[Any, RowMapping | None]:
    where = and_(
        quotas.c.account == account, quotas.c.backend_id == backend_id(transaction, backend)
    )
    row = transaction.execute(select(quotas).where(where).with_for_update()).mappings().first()
    return where, row


def _limits(row: RowMapping) -> View:
    return {f"max_{counted}": limit for counted, limit in limits_of(dict(row)).items()}


def _view(row: RowMapping, usage: Usage) -> View:
    return {
        "account": row["account"],
        "backend": row["backend"],
        **_limits(row),
        "used": usage.used,
        "promised": usage.promised,
        "set_by": row["set_by"],
        "set_at": row["set_at"],
    }


def _record(
    transaction: Transaction,
    kind: EventKind,
    account: str,
    backend: str,
    actor: str,
    reason: str | None,
    before: View | None,
    after: View | None,
    now: datetime,
) -> None:
    told = {"account": account, "before": before, "after": after}
    event = Event(kind=kind, actor=actor, backend=backend, reason=reason, data=told)
    record(transaction, [event], now)
