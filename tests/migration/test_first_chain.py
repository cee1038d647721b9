"""History of the first schema that had a chain: whole after the upgrade, and exact about changes.

What the first format of links covers is written down here once more, so that the code does not
check itself.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text, update

from orchestrator.domain.errors import Conflict
from orchestrator.history.events import Event, Named, number_committed, record
from orchestrator.ledger import chain, verification
from orchestrator.ledger.archive import archive_events
from orchestrator.ledger.chain import Broken, Verified
from orchestrator.store import migrate
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import event_chain, event_commits, event_objects, events
from orchestrator.store.transaction import Transaction
from tests.conftest import copy_of, into_one_file
from tests.rigs.pgbouncer import PgBouncer
from tests.rigs.postgres import Postgres

KEY = b"the key of the installation"
#: For a measurement by hand: a million.
EVENTS = int(os.environ.get("EVENTS_OF_THE_FIRST_SCHEMA", "3000"))
COLUMNS = (
    "commit_id", "seq", "at", "kind", "backend", "volume", "volume_id", "snapshot", "policy",
    "job_id", "actor", "reason", "data",
)  # fmt: skip
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
CHANGED = "it is not as it was written"
FORGED = "its link does not fit: it was made without the key"
SOURCE = Named(role="source", kind="volume", name="golden", id="a" * 32, backend="fast")


@pytest.fixture(scope="module")
def old_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the first schema had it, and upgraded; to be copied."""
    path = tmp_path_factory.mktemp("first") / "filled.sqlite"
    fill_and_upgrade(f"sqlite:///{path}")
    into_one_file(path)
    return path


@pytest.fixture(scope="module")
def old_postgres(postgres_server: Postgres | PgBouncer) -> Iterator[str]:
    """The same on a server: its name."""
    postgres_server.create_database("first_chain")
    fill_and_upgrade(postgres_server.url("first_chain"))
    yield "first_chain"
    postgres_server.drop_database("first_chain")


@pytest.fixture
def database(request: pytest.FixtureRequest, database_kind: str) -> Iterator[Database]:
    kind = "sqlite" if database_kind == "sqlite" else "postgres"
    with copy_of(request.getfixturevalue(f"old_{kind}"), request) as url:
        made = Database(url, pool_size=1)
        yield made
        made.close()


def fill_and_upgrade(url: str) -> None:
    migrate.upgrade(url, "0007")
    database = Database(url, pool_size=1)
    fill(database, EVENTS)
    database.close()
    migrate.upgrade(url)


def fill(database: Database, total: int) -> None:
    """Write so many events, at least, as the first schema had them, with their links."""
    commit, base, link = 0, 0, bytes(32)
    with database.write(may_take_long=True) as transaction:
        while base < total:
            commits, happened, links = [], [], []
            for commit in range(commit + 1, commit + 500):  # noqa: B020 - goes on where it ended
                rows = [event(commit, seq, base + seq) for seq in range(1, commit % 7 + 2)]
                link, digests = first_format(link, commit, base, rows)
                commits.append({"id": commit, "base": base, "events": len(rows)})
                links.append({**commits[-1], "digests": digests, "link": link})
                happened += [stored(row, zone=database.is_postgresql) for row in rows]
                base += len(rows)
            for table, columns, values in (
                ("event_commits", ("id", "base", "events"), commits),
                ("events", COLUMNS, happened),
                ("event_chain", ("base", "id", "events", "digests", "link"), links),
            ):
                names = ", ".join(columns).replace("base, id", "base, commit_id")
                given = ", ".join(f":{name}" for name in columns)
                transaction.execute(text(f"INSERT INTO {table} ({names}) VALUES ({given})"), values)
        given_out = "UPDATE counters SET value = :last WHERE name = 'commits'"
        if database.is_postgresql:
            given_out = "SELECT setval('commits_numbers', :last)"
        transaction.execute(text(given_out), {"last": commit})


def event(commit: int, seq: int, number: int) -> dict[str, Any]:
    kind, data = [
        ("job.submitted", {"action": "volume.create", "params": {"size_bytes": number << 20}}),
        ("job.started", {"attempt": 1, "fence": number}),
        ("volume.create", {"text": "created volume", "after": {"größe": number, "a": [1, None]}}),
        ("database.acknowledged", None),
    ][number % 4]
    # Each other one at a whole second.
    at = BEGIN + timedelta(seconds=number, microseconds=number % 2)
    job = {"volume": f"vm{number // 4}", "volume_id": f"{number // 4:032x}", "job_id": number // 4}
    of_job = job if data else dict.fromkeys(job)
    told = {"snapshot": "s" if seq == 2 else None, "policy": "gold" if seq == 3 else None}
    who = {"backend": "fast", "actor": "anna", "reason": "für dich" if number % 3 else None}
    return {"commit_id": commit, "seq": seq, "at": at, "kind": kind, "data": data, **of_job,
            **told, **who}  # fmt: skip


def first_format(
    before: bytes, commit: int, base: int, rows: list[dict[str, Any]]
) -> tuple[bytes, bytes]:
    """The link of a commit, and the digests of its events."""
    digests = b""
    for row in rows:
        values = [{**row, "at": row["at"].isoformat()}[name] for name in COLUMNS[1:]]
        told = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digests += hashlib.blake2b(told.encode(), digest_size=16).digest()
    place = f"{commit} {base} {len(rows)} ".encode()
    return hmac.new(KEY, before + place + digests, hashlib.sha256).digest(), digests


def stored(row: dict[str, Any], *, zone: bool) -> dict[str, Any]:
    at = f"{row['at']:%Y-%m-%d %H:%M:%S.%f}" + ("+00:00" if zone else "")
    return {**row, "at": at, "data": None if row["data"] is None else json.dumps(row["data"])}


def verified(database: Database, directory: Path | None = None, **given: Any) -> Verified:
    with database.read() as transaction:
        *_, found = verification.verify(transaction, KEY, directory, **given)
    return found


def chained(database: Database) -> None:
    database.transact(number_committed)
    while database.transact(lambda transaction: chain.extend(transaction, KEY, 1000)):
        pass


def happen(database: Database, *objects: Named) -> None:
    """One more commit, with two events: the first names the objects."""
    kinds = ("volume.clone", "job.succeeded")
    happened = [Event(kind=kind, actor="anna", backend="fast", volume="vm1") for kind in kinds]
    happened[0] = Event(kind=kinds[0], actor="anna", backend="fast", volume="vm1", objects=objects)
    database.transact(
        lambda transaction: record(
            transaction, happened, transaction.execute(select(db_now())).scalar_one()
        )
    )


def change(database: Database, *statements: Any) -> None:
    with database.write() as transaction:
        for statement in statements:
            assert transaction.execute(statement).rowcount > 0


def formats(database: Database) -> list[int]:
    with database.read() as transaction:
        query = select(event_chain.c.format).order_by(event_chain.c.base)
        return list(transaction.execute(query).scalars())


def newest(database: Database) -> Any:
    """The newest link."""
    with database.read() as transaction:
        query = select(event_chain).order_by(event_chain.c.base.desc()).limit(1)
        return transaction.execute(query).one()


def count(database: Database, table: Any) -> int:
    with database.read() as transaction:
        return int(transaction.execute(select(func.count()).select_from(table)).scalar_one())


@pytest.fixture
def grown(database: Database) -> Database:
    """The same with events that name objects."""
    happen(database)
    happen(database, SOURCE, Named(role="host", kind="host", name="node1"))
    chained(database)
    return database


@pytest.mark.timeout(1200)
def test_it_is_whole_after_the_upgrade_and_goes_on_in_the_second_format(
    database: Database,
) -> None:
    old = verified(database)
    assert (old.broken, old.events) == (None, count(database, events))
    assert set(formats(database)) == {1}
    happen(database, SOURCE)
    chained(database)
    assert formats(database)[-2:] == [1, 2]
    found = verified(database)
    assert (found.broken, found.events, found.number) == (None, old.events + 2, old.number + 2)
    later = verified(database, after=old.number, link=old.link)
    assert (later.broken, later.events) == (None, 2)


@pytest.mark.timeout(1200)
def test_an_old_event_that_was_altered_is_named(grown: Database) -> None:
    commit = 200
    with grown.read() as transaction:
        query = select(event_commits.c.base).where(event_commits.c.id == commit)
        base = transaction.execute(query).scalar_one()
    old = update(events).where(events.c.commit_id == commit, events.c.seq == 2)
    broken = Broken(base + 2, CHANGED)
    altered: list[dict[str, Any]] = [
        {"actor": "nobody"}, {"objects": [SOURCE._asdict()]}, {"objects": []},
    ]  # fmt: skip
    for values in altered:
        change(grown, old.values(**values))
        assert verified(grown).broken == broken, values
        change(grown, old.values(actor="anna", objects=None))
    assert verified(grown).broken is None


def test_an_old_link_that_was_altered_is_named(grown: Database) -> None:
    with grown.read() as transaction:
        query = select(event_chain).where(event_chain.c.commit_id == 200)
        one = transaction.execute(query).one()
    number = one.base + 1
    link = update(event_chain).where(event_chain.c.commit_id == 200)
    unknown = "its link has a format that is not known: {}"
    for values, why in (
        ({"link": bytes(32)}, FORGED),
        ({"digests": bytes(len(one.digests))}, CHANGED),
        ({"format": 2}, CHANGED),
        ({"format": 0}, unknown.format(0)),
        ({"format": 3}, unknown.format(3)),
    ):
        change(grown, link.values(**values))
        assert verified(grown).broken == Broken(number, why), values
        change(grown, link.values(digests=one.digests, link=one.link, format=1))
    assert verified(grown).broken is None


@pytest.mark.parametrize("objects", [None, [SOURCE._asdict()], "other way round"])
def test_objects_of_a_new_event_cannot_be_changed(grown: Database, objects: Any) -> None:
    one = newest(grown)
    event = update(events).where(events.c.commit_id == one.commit_id, events.c.seq == 1)
    if objects == "other way round":
        with grown.read() as transaction:
            query = select(events.c.objects).where(events.c.commit_id == one.commit_id)
            objects = transaction.execute(query.where(events.c.seq == 1)).scalar_one()[::-1]
    change(grown, event.values(objects=objects))
    assert verified(grown).broken == Broken(one.base + 1, CHANGED)


def test_nor_stripped_by_declaring_the_first_format(grown: Database) -> None:
    with grown.read() as transaction:
        query = select(event_chain).order_by(event_chain.c.base.desc()).limit(3)
        two, one, last_old = transaction.execute(query).all()
        made = {
            each.base: first_format(before, each.commit_id, each.base, of_commit(transaction, each))
            for each, before in ((one, last_old.link), (two, one.link))
        }
    assert (last_old.format, one.format, two.format) == (1, 2, 2)

    def first(each: Any, **values: Any) -> Any:
        """Declare a link to be of the first format, with the digests that this one has."""
        _, digests = made[each.base]
        changed = update(event_chain).where(event_chain.c.base == each.base)
        return changed.values(format=1, digests=digests, **values)

    change(grown, update(events).where(events.c.objects.is_not(None)).values(objects=None))
    change(grown, first(two))
    earlier = Broken(two.base + 1, "its link has an earlier format than the one before")
    assert verified(grown).broken == earlier
    # Behind links that are all of the first format, it is the key that is missing.
    change(grown, first(one))
    assert verified(grown).broken == Broken(one.base + 1, FORGED)
    foreign = pytest.raises(chain.ForeignChainError)
    with foreign:
        grown.transact(lambda transaction: chain.require_own(transaction, KEY))
    # Not even who has the key goes back to the first format, from wherever one verifies.
    whole = {"format": 2, "digests": one.digests}
    change(grown, update(event_chain).where(event_chain.c.base == one.base).values(**whole))
    change(grown, first(two, link=made[two.base][0]))
    for after in (0, one.base, two.base):
        assert verified(grown, after=after).broken == earlier
    with foreign:
        grown.transact(lambda transaction: chain.require_own(transaction, KEY))


def of_commit(transaction: Transaction, link: Any) -> list[dict[str, Any]]:
    query = select(events).where(events.c.commit_id == link.commit_id).order_by(events.c.seq)
    return [dict(row) for row in transaction.execute(query).mappings()]


def test_archives_of_both_formats_are_as_they_were_written(grown: Database, tmp_path: Path) -> None:
    directory = tmp_path / "archive"

    def archived(days: float, most: int) -> None:
        grown.transact(
            lambda transaction: archive_events(
                transaction, KEY, directory, older_than_days=days, most=most
            )
        )
        chained(grown)

    archived(7, 1000)
    archived(-1, 10_000)
    first, last = sorted(directory.iterdir(), key=lambda path: int(path.name.split("-")[1]))
    old, new = (
        [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        for path in (first, last)
    )
    assert not any("objects" in one or "format" in one.get("commit", {}) for one in old)
    found = [one["commit"].get("format", 1) for one in new if "commit" in one]
    assert (found[0], found[-1]) == (1, 2)
    assert [one["objects"][0] for one in new if "objects" in one] == [SOURCE._asdict()]
    assert verified(grown, directory).broken is None
    assert count(grown, event_objects) == 0
    with pytest.raises(Conflict, match="restore a backup"):
        migrate.downgrade(grown.url, "0012")


def test_events_of_an_object_are_found_by_an_index(grown: Database) -> None:
    by_name = select(event_objects.c.commit_id).where(
        event_objects.c.kind == "volume",
        event_objects.c.backend == SOURCE.backend,
        event_objects.c.name == SOURCE.name,
    )
    by_id = select(event_objects.c.commit_id).where(event_objects.c.object_id == SOURCE.id)
    explain = "EXPLAIN " if grown.is_postgresql else "EXPLAIN QUERY PLAN "
    with grown.read() as transaction:
        if grown.is_postgresql:
            transaction.execute(text("SET LOCAL enable_seqscan = off"))
        for query, index in ((by_name, "name"), (by_id, "object_id")):
            [found] = transaction.execute(query).scalars()
            assert found == newest(grown).commit_id
            dialect = transaction.connection.dialect
            written = query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
            plan = transaction.connection.exec_driver_sql(f"{explain}{written}").all()
            assert f"ix_event_objects_{index}" in str(plan)
    change(grown, delete(events).where(events.c.commit_id == newest(grown).commit_id))
    assert count(grown, event_objects) == 0


def test_rows_are_the_same_after_a_downgrade_and_links_are_made_again(grown: Database) -> None:
    there = count(grown, events)
    migrate.downgrade(grown.url, "0012")
    with grown.read() as transaction:
        links = transaction.execute(text("SELECT count(*) FROM event_chain")).scalar_one()
        assert transaction.execute(text("SELECT count(*) FROM events")).scalar_one() == there
    migrate.upgrade(grown.url)
    assert formats(grown) == [1] * links
    chained(grown)
    assert formats(grown) == [1] * links + [2, 2]
    assert verified(grown).broken is None
