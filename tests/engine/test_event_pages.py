"""Pages of events have the right events, in whatever order their commits got their numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Any

import pytest
from sqlalchemy import select

from orchestrator.history.events import number_committed, read_after, read_newest
from orchestrator.inventory.backends import configure
from orchestrator.settings import BackendSettings
from orchestrator.store.bulk import insert_rows
from orchestrator.store.database import Database
from orchestrator.store.tables import event_commits, events
from orchestrator.store.transaction import Transaction

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = ["job.submitted"] * 6 + ["volume.grow"] * 3 + ["job.failed"]
#: Ids of commits: far more than are on a page.
COMMITS = range(1, 400)


def committed(transaction: Transaction, ids: list[int], chance: random.Random) -> None:
    """Commits of a few events each, of two backends and some volumes."""
    sizes = {id_: chance.choice([1, 1, 2, 3, 30]) for id_ in ids}
    rows = [
        {
            "commit_id": id_,
            "seq": seq,
            "at": NOW,
            "kind": chance.choice(KINDS),
            "backend": chance.choice(["ram"] * 30 + ["tape"]),
            "volume": f"v{chance.randrange(9)}",
            "job_id": id_ // 3,
            "actor": "tests",
        }
        for id_, size in sizes.items()
        for seq in range(1, size + 1)
    ]
    insert_rows(
        transaction, event_commits, [{"id": id_, "events": sizes[id_]} for id_ in sorted(ids)]
    )
    insert_rows(transaction, events, rows)


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    """Commits that were numbered late by a few ids, or by many, and some that have no number."""
    made = Database(migrated_url)
    backends = {name: BackendSettings(driver="memory") for name in ("ram", "tape")}
    made.transact(lambda transaction: configure(transaction, backends))
    chance = random.Random(7)
    late = {one: one + chance.choice([1, 5, 40]) for one in chance.sample(COMMITS, 60)}
    coming = sorted(COMMITS, key=lambda one: late.get(one, one))
    for begin in range(0, len(coming), 20):
        some = coming[begin : begin + 20]
        made.transact(partial(committed, ids=some, chance=chance))
        if begin + 20 < len(coming):
            made.transact(number_committed)
    yield made
    made.close()


NAMES = ("kind", "backend", "volume", "job_id")
FILTERS: list[dict[str, Any]] = [
    {name: value for name, value in zip(NAMES, values, strict=True) if value is not None}
    for values in product(
        (None, "job.submitted", "volume.grow", "job.failed", "lock.taken"),
        (None, "ram", "tape"),
        (None, "v3"),
        (None, 50),
    )
]


def test_pages_have_the_events_that_are_wanted_in_the_order_of_their_numbers(
    database: Database,
) -> None:
    number = (event_commits.c.base + events.c.seq).label("number")
    joined = select(events, number).join(event_commits, event_commits.c.id == events.c.commit_id)
    with database.read() as transaction:
        query = joined.where(number.is_not(None)).order_by(number)
        everything = transaction.execute(query).all()
        assert transaction.execute(select(event_commits).where(event_commits.c.behind > 20)).all()
        for filters, limit in product(FILTERS, (7, 40)):
            wanted = [
                one.number
                for one in everything
                if all(one._mapping[name] == value for name, value in filters.items())
            ]
            _, newest, _ = read_newest(transaction, limit, filters)
            assert [one.number for one in newest] == wanted[-limit:], filters
            for after in range(0, everything[-1].number + 10, 397):
                found = [one.number for one in read_after(transaction, after, limit, filters)]
                assert found == [one for one in wanted if one > after][:limit], (filters, after)
                _, older, _ = read_newest(transaction, limit, filters, before=after)
                below = [one for one in wanted if one < after][-limit:]
                assert [one.number for one in older] == below, (filters, after)
