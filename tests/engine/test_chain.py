"""The chain of events: whole as long as nobody touches the record, and exact about who did."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import structlog
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy import text as sql
from structlog.testing import capture_logs

from orchestrator.domain.errors import InvalidInput
from orchestrator.history.events import Event, Named, number_committed
from orchestrator.history.events import record as write
from orchestrator.ledger import chain
from orchestrator.ledger.chain import Broken, Verified
from orchestrator.store.tables import event_chain, event_commits, events
from tests.engine.conftest import Engine, create, grow
from workers.scheduler import Scheduler

KEY = b"a key"


@pytest.fixture
def record(engine: Engine) -> Engine:
    """Some history, numbered and chained."""
    engine.submit(*(create(f"vm{n}") for n in range(5)), reason="für dich")
    engine.work()
    engine.submit(grow("vm1", "2M"))
    engine.work()
    chained(engine)
    return engine


def chained(engine: Engine) -> None:
    engine.database.transact(number_committed)
    while engine.database.transact(lambda connection: chain.extend(connection, KEY, 3)):
        pass


def verified(engine: Engine, key: bytes = KEY, **given: Any) -> Verified:
    with engine.database.read() as connection:
        *_, found = chain.verify(connection, key, **given)
    return found


def head(engine: Engine) -> tuple[int, str]:
    found = engine.database.look(chain.head)
    assert found is not None
    return found


def change(engine: Engine, statement: Any) -> None:
    with engine.database.write() as connection:
        assert connection.execute(statement).rowcount > 0


def place_of(engine: Engine, kind: str) -> tuple[int, int, int]:
    """The commit, the place in it, and the number of the first event of a kind."""
    number = event_commits.c.base + events.c.seq
    query = (
        select(events.c.commit_id, events.c.seq, number)
        .join(event_commits, event_commits.c.id == events.c.commit_id)
        .where(events.c.kind == kind)
        .order_by(number)
        .limit(1)
    )
    with engine.database.read() as connection:
        found: tuple[int, int, int] = tuple(connection.execute(query).one())
    return found


def count(engine: Engine) -> int:
    with engine.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(events)).scalar_one())


def test_an_untouched_record_is_right(record: Engine) -> None:
    found = verified(record)
    assert found.broken is None
    assert found.events == found.number == count(record)
    assert (found.number, found.link) == head(record)


@pytest.mark.parametrize("link_format", [chain.FIRST, chain.FORMAT])
def test_digests_of_columns_are_those_of_whole_events(engine: Engine, link_format: int) -> None:
    odd = 'für "dich"\\\n\t\x01\x7f\u2028 \N{GRINNING FACE}'
    happened = [
        Event(
            kind="odd", actor=odd, backend=odd, volume=odd, reason=odd, job_id=7, data={odd: odd}
        ),
        Event(
            kind="odd",
            actor="",
            data={"b": [1.0, 1e100, 10**18, None, True], "a": {"d": {}, "c": "x" * 2000}},
            objects=[Named("source", "volume", odd, "0" * 32, "ram"), Named("target", "host", "h")],
        ),
    ]
    # The moments of no event but these have no fraction.
    for moment in (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 3, 1, 1, 2, 3, 40, tzinfo=UTC)):
        engine.database.transact(partial(write, happened=happened, at=moment))
    with engine.database.read() as transaction:
        ids = transaction.execute(select(event_commits.c.id)).scalars().all()
        quick = chain.digests_of(transaction, dict.fromkeys(ids, link_format))
        whole = {
            commit_id: [chain.digest_of(row, link_format) for row in rows]
            for commit_id, rows in chain.events_of(transaction, ids)
        }
    assert quick == whole
    assert len(whole) >= 2


def test_a_verification_goes_on_where_the_last_one_ended(record: Engine) -> None:
    first = verified(record)
    record.submit(create("later"))
    record.work()
    chained(record)
    found = verified(record, after=first.number, link=first.link)
    assert found.broken is None
    assert (found.events, found.number) == (count(record) - first.events, count(record))
    again = verified(record, after=found.number, link=found.link)
    assert (again.events, again.number, again.broken) == (0, found.number, None)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("actor", "nobody"),
        ("reason", "für mich"),
        ("volume", "vm9"),
        ("kind", "volume.remove"),
        ("data", {"before": None}),
        ("job_id", 4711),
    ],
)
def test_a_changed_event_is_named(record: Engine, column: str, value: Any) -> None:
    commit_id, seq, number = place_of(record, "volume.grow")
    change(
        record,
        update(events)
        .where(events.c.commit_id == commit_id, events.c.seq == seq)
        .values({column: value}),
    )
    assert verified(record).broken == Broken(number, "it is not as it was written")


@pytest.mark.parametrize(
    "text",
    [
        # SQLite's functions read the first of two, Python's the last.
        """'{"action":"volume.remove",' || substr(data, 2)""",
        "substr(data, 2)",
    ],
    ids=["a key comes twice", "no JSON"],
)
def test_text_that_not_every_reader_takes_for_the_same_is_named(record: Engine, text: str) -> None:
    if record.database.is_postgresql:
        pytest.skip("PostgreSQL keeps JSON parsed: there is no such text")
    commit, seq, number = place_of(record, "job.submitted")
    statement = f"UPDATE events SET data = {text} WHERE commit_id = {commit} AND seq = {seq}"
    change(record, sql(statement))
    assert verified(record).broken == Broken(number, "it is not as it was written")


def test_a_missing_event_is_named(record: Engine) -> None:
    commit_id, seq, number = place_of(record, "volume.grow")
    change(record, delete(events).where(events.c.commit_id == commit_id, events.c.seq >= seq))
    assert verified(record).broken == Broken(number, "it is missing")


def test_an_event_that_was_put_in_is_named(record: Engine) -> None:
    commit_id, _, _ = place_of(record, "volume.grow")
    with record.database.write() as connection:
        last = connection.execute(
            select(events).where(events.c.commit_id == commit_id).order_by(events.c.seq.desc())
        ).first()
        assert last is not None
        connection.execute(insert(events), [{**last._mapping, "seq": last.seq + 1}])
        base = connection.execute(
            select(event_commits.c.base).where(event_commits.c.id == commit_id)
        ).scalar_one()
    assert verified(record).broken == Broken(base + last.seq + 1, "it is not as it was written")


def test_a_commit_that_was_put_in_is_named(record: Engine) -> None:
    commit_id, _, _ = place_of(record, "volume.grow")
    with record.database.write() as connection:
        one = connection.execute(select(events).where(events.c.commit_id == commit_id)).first()
        base = connection.execute(
            select(event_commits.c.base).where(
                event_commits.c.base >= 0, event_commits.c.events > 1
            )
        ).scalar()
        assert one is not None
        assert base is not None
        connection.execute(insert(event_commits), [{"id": 900000, "events": 1, "base": base + 1}])
        connection.execute(insert(events), [{**one._mapping, "commit_id": 900000, "seq": 1}])
    assert verified(record).broken == Broken(base + 2, "it was put in")


def test_a_commit_that_was_taken_out_with_its_link_is_noticed(record: Engine) -> None:
    commit_id, _, number = place_of(record, "job.submitted")
    with record.database.write() as connection:
        for table, column in (
            (events, events.c.commit_id),
            (event_commits, event_commits.c.id),
            (event_chain, event_chain.c.commit_id),
        ):
            connection.execute(delete(table).where(column == commit_id))
    broken = verified(record).broken
    assert broken is not None and broken.number == number


def test_who_lacks_the_key_cannot_make_it_fit(record: Engine) -> None:
    commit_id, seq, _ = place_of(record, "volume.grow")
    change(
        record,
        update(events)
        .where(events.c.commit_id == commit_id, events.c.seq == seq)
        .values(actor="nobody"),
    )
    with record.database.write() as connection:
        connection.execute(delete(event_chain))
        while chain.extend(connection, b"another key", 1000):
            pass
    assert verified(record, b"another key").broken is None
    assert verified(record).broken == Broken(
        1, "its link does not fit: it was made without the key"
    )


def test_nobody_adds_to_a_chain_that_another_key_has_made(record: Engine) -> None:
    before = head(record)
    record.submit(create("later"))
    record.work()
    record.database.transact(number_committed)
    with pytest.raises(chain.ForeignChainError, match="another key"):
        record.database.transact(lambda connection: chain.extend(connection, b"another key", 3))
    assert head(record) == before
    chained(record)
    assert verified(record).broken is None
    assert verified(record).number == count(record)


@pytest.mark.parametrize("one", [0, 1], ids=["the newest link", "the one before"])
def test_nor_to_a_chain_whose_end_was_altered(record: Engine, one: int) -> None:
    newest = select(event_chain.c.base).order_by(event_chain.c.base.desc()).offset(one).limit(1)
    change(
        record,
        update(event_chain)
        .where(event_chain.c.base == newest.scalar_subquery())
        .values(link=bytes(32)),
    )
    record.submit(create("later"))
    record.work()
    record.database.transact(number_committed)
    with pytest.raises(chain.ForeignChainError):
        record.database.transact(lambda connection: chain.extend(connection, KEY, 3))


def test_a_scheduler_with_another_key_says_so_once_and_goes_on_with_the_right_one(
    record: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One that has not been used yet: what other tests have configured would stay with it.
    monkeypatch.setattr("workers.scheduler.log", structlog.get_logger())
    before = head(record)
    with record.database.read() as connection:
        assert chain.unchained_since(connection) is None
    record.submit(create("later"))
    record.work()
    scheduler = Scheduler(record.settings)
    try:
        with capture_logs() as logs:
            for _ in range(3):
                scheduler._number_events()
                scheduler._chain_events()
        assert [line["event"] for line in logs] == ["chain.refused"]
        assert head(record) == before
        with record.database.read() as connection:
            assert chain.unchained_since(connection) is not None
        scheduler._key = KEY
        scheduler._chain_events()
    finally:
        scheduler.close()
    assert verified(record).broken is None
    assert verified(record).number == count(record)
    with record.database.read() as connection:
        assert chain.unchained_since(connection) is None


def test_a_record_that_was_cut_off_does_not_fit_a_head_kept_elsewhere(record: Engine) -> None:
    number, link = head(record)
    with record.database.write() as connection:
        last = connection.execute(select(func.max(event_chain.c.base))).scalar_one()
        connection.execute(delete(event_chain).where(event_chain.c.base == last))
    assert verified(record).broken is None, "the chain alone cannot tell"
    assert verified(record, after=number, link=link).broken == Broken(
        number, "no link ends there: it was cut off"
    )
    with pytest.raises(InvalidInput):
        verified(record, after=number)


def test_another_link_than_the_one_kept_elsewhere_is_noticed(record: Engine) -> None:
    number, _ = head(record)
    assert verified(record, after=number, link="0" * 64).broken == Broken(
        number, "the chain had another link there"
    )


def test_two_who_extend_the_chain_make_one(record: Engine) -> None:
    record.submit(create("later"))
    record.work()
    record.database.transact(number_committed)
    for _ in range(2):
        record.database.transact(lambda connection: chain.extend(connection, KEY, 1000))
    assert verified(record).broken is None
    assert verified(record).number == count(record)
