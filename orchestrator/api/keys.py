"""Idempotency keys of calls that submit no job, or one by another name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from sqlalchemy import select, update

from orchestrator.domain.errors import IdempotencyMismatch
from orchestrator.store.columns import db_now
from orchestrator.store.tables import idempotency_keys as keys
from orchestrator.store.transaction import Transaction

View = dict[str, Any]


def once(
    transaction: Transaction, owner: str, key: str | None, what: Any, do: Callable[[], View]
) -> View:
    """What ``do`` answers, or what it answered when this key came with the same ``what``.

    Call in a transaction that ``do`` is part of. Raises `IdempotencyMismatch`.
    """
    if key is None:
        return do()
    digest = _digest(what)
    # Whoever comes with the same key meanwhile waits here for this transaction's end.
    if _keep(transaction, owner, key, digest, answer={}):
        answer = do()
        transaction.execute(
            update(keys).where(keys.c.owner == owner, keys.c.key == key).values(answer=answer)
        )
        return answer
    kept: View = _kept(transaction, owner, key, digest).answer
    return kept


def job_of(transaction: Transaction, owner: str, key: str, what: Any) -> int | None:
    """The job that this key was first used for. Raises `IdempotencyMismatch`."""
    found = _kept(transaction, owner, key, _digest(what))
    return None if found is None else int(found.job_id)


def keep_job(transaction: Transaction, owner: str, key: str, what: Any, job_id: int) -> None:
    """Have this key stand for a job."""
    _keep(transaction, owner, key, _digest(what), job_id=job_id)


def _digest(what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _keep(transaction: Transaction, owner: str, key: str, digest: str, **kept: Any) -> bool:
    values = {"owner": owner, "key": key, "request_digest": digest, "created_at": db_now()}
    inserted = transaction.execute(
        transaction.insert(keys).values(**values, **kept).on_conflict_do_nothing(),
        execution_options={"preserve_rowcount": True},
    )
    return inserted.rowcount == 1


def _kept(transaction: Transaction, owner: str, key: str, digest: str) -> Any:
    found = transaction.execute(
        select(keys).where(keys.c.owner == owner, keys.c.key == key)
    ).first()
    if found is not None and found.request_digest != digest:
        raise IdempotencyMismatch(field="Idempotency-Key")
    return found
