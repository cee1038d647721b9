"""Versions of volumes: whatever changes a row, their times have no gaps and no overlaps."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import delete, insert, select, text, update

from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import backends, policies, volume_versions, volumes
from orchestrator.store.transaction import Transaction

#: What a version keeps, as columns of `volumes`.
KEPT = (
    "backend_id", "name", "state", "requested_bytes", "size_bytes", "policy_id", "account",
    "metadata",
)  # fmt: skip
USABLE = ("available", "restricted", "error")
A_WHILE = timedelta(minutes=1)


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    made = Database(migrated_url, pool_size=1)
    with made.write() as transaction:
        transaction.execute(insert(backends).values(name="b", driver="memory", created_at=db_now()))
        transaction.execute(
            insert(policies).values(
                uid="p", backend_id=1, name="web", rules=[], state="available",
                created_at=db_now(), changed_at=db_now(),
            )
        )  # fmt: skip
    yield made
    made.close()


def now(transaction: Transaction) -> datetime:
    found: datetime = transaction.execute(select(db_now())).scalar_one()
    return found


def put(transaction: Transaction, id_: str, **values: Any) -> None:
    at = now(transaction)
    row = {
        "id": id_, "backend_id": 1, "name": id_, "requested_bytes": 5, "size_bytes": 8,
        "state": "available", "metadata": {}, "created_at": at, "changed_at": at,
    } | values  # fmt: skip
    transaction.execute(insert(volumes).values(**row))


def change(transaction: Transaction, id_: str, **values: Any) -> None:
    transaction.execute(update(volumes).where(volumes.c.id == id_).values(**values))


def versions(transaction: Transaction, id_: str) -> list[Any]:
    query = select(volume_versions).where(volume_versions.c.volume_id == id_)
    return list(transaction.execute(query.order_by(volume_versions.c.version)).mappings())


def row_of(transaction: Transaction, id_: str) -> Any:
    return transaction.execute(select(volumes).where(volumes.c.id == id_)).mappings().first()


def assert_whole(transaction: Transaction, id_: str) -> list[Any]:
    """Numbers without gaps, times without overlaps, an open version of exactly what is there."""
    found = versions(transaction, id_)
    assert [version["version"] for version in found] == list(range(1, len(found) + 1))
    for earlier, later in pairwise(found):
        assert earlier["valid_from"] <= earlier["valid_to"] <= later["valid_from"]
    row = row_of(transaction, id_)
    is_open = bool(found) and found[-1]["valid_to"] is None
    assert is_open == (row is not None and row["state"] in USABLE)
    if is_open:
        assert {name: found[-1][name] for name in KEPT} == {name: row[name] for name in KEPT}
    return found


def test_each_change_of_what_is_kept_begins_a_version_where_the_last_one_ended(
    database: Database,
) -> None:
    changes: list[dict[str, Any]] = [
        {"size_bytes": 16, "requested_bytes": 16},
        {"name": "other"},
        {"policy_id": 1},
        {"metadata": {"owner": "x"}},
        {"account": "team"},
        {"state": "restricted"},
    ]
    with database.write() as transaction:
        put(transaction, "v", state="pending")
        assert versions(transaction, "v") == []
    with database.write() as transaction:
        change(transaction, "v", state="available", changed_at=now(transaction))
    for values in changes:
        with database.write() as transaction:
            earlier = row_of(transaction, "v")["changed_at"]
            change(transaction, "v", **values, changed_at=now(transaction))
            changed = row_of(transaction, "v")["changed_at"]
            *_, before, latest = assert_whole(transaction, "v")
            assert before["valid_to"] == latest["valid_from"]
            # Two changes in one millisecond of SQLite's clock: the second ends at what it is then.
            assert latest["valid_from"] == changed or earlier == changed <= latest["valid_from"]
            assert {name: latest[name] for name in values} == values
    with database.write() as transaction:
        at = now(transaction)
        change(transaction, "v", state="removed", removed_at=at, changed_at=at)
        found = assert_whole(transaction, "v")
        assert len(found) == len(changes) + 1
        assert found[-1]["valid_to"] == at or changed == at <= found[-1]["valid_to"]


def test_what_is_used_makes_no_version(database: Database) -> None:
    with database.write() as transaction:
        put(transaction, "v")
        change(transaction, "v", used_bytes=7, changed_at=now(transaction))
        change(transaction, "v", name="v", size_bytes=8, detail="looked at")
        assert len(assert_whole(transaction, "v")) == 1


def test_one_statement_for_several_rows_makes_a_version_of_each(database: Database) -> None:
    with database.write() as transaction:
        for id_ in ("a", "b", "c"):
            put(transaction, id_)
        transaction.execute(text("UPDATE volumes SET size_bytes = 9 WHERE id <> 'c'"))
        assert [len(assert_whole(transaction, id_)) for id_ in ("a", "b", "c")] == [2, 2, 1]
        transaction.execute(text("DELETE FROM volumes WHERE id <> 'c'"))
        assert [len(assert_whole(transaction, id_)) for id_ in ("a", "b", "c")] == [2, 2, 1]


def test_changes_of_one_transaction_and_moment_are_versions_one_after_the_other(
    database: Database,
) -> None:
    with database.write() as transaction:
        put(transaction, "v")
        at = now(transaction) + A_WHILE
        for size in (10, 11, 12):
            change(transaction, "v", size_bytes=size, changed_at=at)
        assert len(assert_whole(transaction, "v")) == 4


def test_a_change_that_bears_an_earlier_time_ends_no_version_before_it_began(
    database: Database,
) -> None:
    """A transaction that took its time, then waited for somebody's change by hand."""
    with database.write() as transaction:
        early = now(transaction) - A_WHILE
        put(transaction, "v", created_at=early - A_WHILE, changed_at=early - A_WHILE)
        change(transaction, "v", name="by-hand")
        change(transaction, "v", size_bytes=20, changed_at=early)
        assert len(assert_whole(transaction, "v")) == 3


def test_a_row_that_was_deleted_may_be_put_back(database: Database) -> None:
    with database.write() as transaction:
        put(transaction, "v")
        transaction.execute(delete(volumes).where(volumes.c.id == "v"))
        assert_whole(transaction, "v")
        early = now(transaction) - A_WHILE
        put(transaction, "v", created_at=early, changed_at=early)
        assert len(assert_whole(transaction, "v")) == 2


def test_a_volume_set_back_by_hand_goes_on_with_the_next_version(database: Database) -> None:
    with database.write() as transaction:
        put(transaction, "v")
        change(transaction, "v", state="pending")
        assert_whole(transaction, "v")
        change(transaction, "v", state="available", changed_at=now(transaction))
        assert len(assert_whole(transaction, "v")) == 2


def test_what_is_rolled_back_leaves_no_version(database: Database) -> None:
    with database.write() as transaction:
        put(transaction, "v")
    with database.engine.connect() as transaction:
        transaction.execute(text("UPDATE volumes SET name = 'w'"))
        transaction.rollback()
    with database.read() as transaction:
        assert len(assert_whole(transaction, "v")) == 1


@pytest.mark.parametrize("seed", range(3))
def test_any_walk_of_changes_leaves_versions_whole(database: Database, seed: int) -> None:
    chance = random.Random(seed)
    ids = ["v0", "v1", "v2"]
    expected = dict.fromkeys(ids, 0)
    for _ in range(40):
        with database.write() as transaction:
            for _ in range(chance.randint(1, 3)):
                step(transaction, chance, ids, expected)
                for id_ in ids:
                    assert len(assert_whole(transaction, id_)) == expected[id_]


def step(
    transaction: Transaction, chance: random.Random, ids: list[str], expected: dict[str, int]
) -> None:
    """One statement, of one row or of several, and how many versions it shall have made."""
    chosen = chance.sample(ids, chance.randint(1, len(ids)))
    before = {id_: row_of(transaction, id_) for id_ in chosen}
    at = now(transaction) + chance.choice([-A_WHILE, timedelta(), A_WHILE])
    match chance.randint(0, 9):
        case 0:
            transaction.execute(delete(volumes).where(volumes.c.id.in_(chosen)))
        case 1 | 2 | 3:
            for id_ in chosen:
                if before[id_] is None:
                    state = chance.choice(["pending", "available"])
                    put(transaction, id_, state=state, created_at=at, changed_at=at)
        case _:
            values: dict[str, Any] = chance.choice(
                [
                    {"size_bytes": chance.randint(1, 3)},
                    {"metadata": {"n": chance.randint(1, 3)}},
                    {"policy_id": chance.choice([None, 1])},
                    {"state": chance.choice([*USABLE, "pending"]), "removed_at": None},
                    {"state": "removed", "removed_at": at},
                    {"used_bytes": chance.randint(1, 9)},
                ]
            )
            if chance.random() < 0.5:
                values["changed_at"] = at
            transaction.execute(update(volumes).where(volumes.c.id.in_(chosen)).values(**values))
    for id_ in chosen:
        after = row_of(transaction, id_)
        if after is not None and after["state"] in USABLE:
            was = before[id_]
            if was is None or any(was[name] != after[name] for name in KEPT):
                expected[id_] += 1
