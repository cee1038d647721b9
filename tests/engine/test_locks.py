"""What history tells of locks."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select, update

from orchestrator.domain.errors import InvalidInput
from orchestrator.jobs import upkeep
from orchestrator.resources.volume import locks as locking
from orchestrator.store.columns import db_now
from orchestrator.store.tables import events, locks
from orchestrator.store.transaction import Transaction
from tests.engine.conftest import ADMIN, Engine, create


def _take(engine: Engine, seconds: float | None) -> dict[str, Any]:
    return engine.database.transact(
        lambda transaction: locking.take(
            transaction, "ram", "a", "beta", ADMIN, reason=None, seconds=seconds
        )
    )


def _told(engine: Engine) -> list[tuple[str, Any]]:
    query = select(events.c.kind, events.c.data).where(events.c.kind.like("lock.%"))
    with engine.database.read() as transaction:
        rows = transaction.execute(query.order_by(events.c.commit_id)).all()
        return [(row.kind, row.data) for row in rows]


def _lock(held: dict[str, Any]) -> dict[str, Any]:
    expires = held["expires_at"]
    return {"owner": held["owner"], "expires_at": expires and expires.isoformat()}


def test_the_expiry_is_told_whenever_it_is_set(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    first, second, third = _take(engine, 60.0), _take(engine, 3600.0), _take(engine, None)
    assert _told(engine) == [
        ("lock.taken", {"before": None, "after": _lock(first)}),
        ("lock.renewed", {"before": _lock(first), "after": _lock(second)}),
        ("lock.renewed", {"before": _lock(second), "after": _lock(third)}),
    ]


def test_a_lock_that_expires_says_when_it_was_to(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    _take(engine, 60.0)
    with engine.database.write() as transaction:
        transaction.execute(update(locks).values(expires_at=db_now(-1.0)))
    engine.database.transact(upkeep.expire_locks)
    kind, data = _told(engine)[-1]
    assert (kind, data["before"]["owner"], data["after"]) == ("lock.expired", "beta", None)
    assert data["before"]["expires_at"] is not None


@pytest.mark.parametrize("reason", [None, "", " \t"])
def test_who_breaks_a_lock_says_why(engine: Engine, reason: str | None) -> None:
    engine.submit(create("a"))
    engine.work()
    _take(engine, None)
    with pytest.raises(InvalidInput, match="reason"):
        engine.database.transact(
            lambda transaction: locking.release(
                transaction, "ram", "a", None, ADMIN, force=True, reason=reason
            )
        )


def test_locks_that_are_held_are_listed_page_by_page(engine: Engine) -> None:
    engine.submit(*(create(volume) for volume in "abcd"))
    engine.work()

    def take(transaction: Transaction) -> None:
        for volume, owner, seconds in (("d", "alpha", None), ("c", "beta", 60.0), ("b", "beta", 1)):
            locking.take(transaction, "ram", volume, owner, ADMIN, reason=None, seconds=seconds)
        transaction.execute(
            update(locks).where(locks.c.expires_at < db_now(30.0)).values(expires_at=db_now(-1.0))
        )

    engine.database.transact(take)

    def listed(**how: Any) -> list[tuple[str, str]]:
        found = engine.database.look(
            lambda transaction: locking.list_locks(transaction, **{"limit": 10, **how})
        )
        return [(one["volume"], one["owner"]) for one in found]

    assert listed() == [("c", "beta"), ("d", "alpha")]
    assert listed(limit=1) == [("c", "beta")]
    assert listed(after=("ram", "c")) == [("d", "alpha")]
    assert listed(after=("ram", "d")) == []
    assert listed(owner="alpha") == listed(volume="d", backend="ram") == [("d", "alpha")]
    assert listed(backend="other") == []
