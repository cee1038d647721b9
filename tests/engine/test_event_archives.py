"""Archives of events: what leaves the database can be read, and shown to be as it was written."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete, func, insert, select, update

from orchestrator import tokens
from orchestrator.api.app import create_app, served
from orchestrator.api.service import Service
from orchestrator.cli.root import run
from orchestrator.domain.errors import Gone, InvalidInput, WrongState
from orchestrator.domain.states import Role
from orchestrator.history.events import Event, latest_number, number_committed, read_after
from orchestrator.history.events import record as write
from orchestrator.jobs.archive import archive as archive_jobs
from orchestrator.jobs.archive import ask_for
from orchestrator.jobs.views import job_view
from orchestrator.ledger import chain, expiry, verification
from orchestrator.ledger.archive import archive_events
from orchestrator.ledger.chain import Broken, Verified
from orchestrator.ledger.chapters import signed
from orchestrator.settings import RetentionSettings, Settings
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import event_archives, event_chain, event_commits, events
from orchestrator.store.transaction import Transaction
from tests.engine.conftest import Engine, create, grow
from tests.engine.test_chain import KEY
from workers.scheduler import Scheduler

#: So that everything is old enough, however little time has passed.
AT_ONCE = -1.0


@dataclass(frozen=True)
class Installation:
    """A database and an archive, without anybody at work."""

    settings: Settings
    database: Database


Kept = Installation | Engine


@pytest.fixture
def empty(settings: Settings) -> Iterator[Installation]:
    made = Installation(settings, Database(settings.database_url, pool_size=2))
    yield made
    made.database.close()


@pytest.fixture
def record(empty: Installation) -> Installation:
    """Some history, numbered and chained."""
    happen(empty, *[0] * 5)
    for _ in range(12):
        happen(empty, 0, 0, kind="volume.grow")
    chained(empty)
    return empty


@pytest.fixture
def busy(engine: Engine) -> Engine:
    """The same of jobs."""
    engine.submit(*(create(f"vm{n}") for n in range(5)), reason="für dich")
    engine.work()
    engine.submit(grow("vm1", "2M"))
    engine.work()
    chained(engine)
    return engine


def happen(engine: Kept, *ages: float, kind: str = "test.happened") -> None:
    """One commit, with an event for each age in days; it tells of the oldest that it is."""
    now = datetime.now(UTC)
    event = Event(kind=kind, actor="tests", reason="für dich", data={"before": {"size": 1.5}})

    def work(transaction: Transaction) -> None:
        write(transaction, [event] * len(ages), now - timedelta(days=min(ages)))

    engine.database.transact(work)


def chained(engine: Kept) -> None:
    engine.database.transact(number_committed)
    while engine.database.transact(lambda transaction: chain.extend(transaction, KEY, 100)):
        pass


def head(engine: Kept) -> tuple[int, str]:
    found = engine.database.look(chain.head)
    assert found is not None
    return found


def change(engine: Kept, statement: Any) -> None:
    with engine.database.write() as transaction:
        assert transaction.execute(statement).rowcount > 0


def count(engine: Kept) -> int:
    with engine.database.read() as transaction:
        return int(transaction.execute(select(func.count()).select_from(events)).scalar_one())


def archived(engine: Kept, most: int = 5, *, times: int = 1000, days: float = AT_ONCE) -> int:
    """Archive in files of a few events; how many files that were."""
    for done in range(times):
        if not engine.database.transact(
            lambda transaction: archive_events(
                transaction, KEY, engine.settings.archive, older_than_days=days, most=most
            )
        ):
            return done
    return times


def verified(engine: Kept, *, archives: bool = True, **given: Any) -> Verified:
    directory = engine.settings.archive if archives else None
    with engine.database.read() as transaction:
        *_, found = verification.verify(transaction, KEY, directory, **given)
    return found


def files(engine: Kept) -> list[Path]:
    found = engine.settings.archive.glob("events-*.jsonl.gz")
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def lines(*paths: Path) -> list[Any]:
    return [json.loads(line) for path in paths for line in gzip.open(path, "rt")]


def rows(engine: Kept) -> list[Any]:
    with engine.database.read() as transaction:
        return list(
            transaction.execute(select(event_archives).order_by(event_archives.c.base)).all()
        )


def test_the_oldest_events_leave_for_files_and_all_is_as_it_was_written(
    record: Installation,
) -> None:
    with record.database.read() as transaction:
        before = read_after(transaction, 0, 1000)
    was = verified(record)
    made = archived(record, times=3)
    assert made == len(files(record)) == 3
    last = rows(record)[-1].last
    told = lines(*files(record))
    assert [one["number"] for one in told] == list(range(1, last + 1))
    for one, row in zip(told, before, strict=False):
        names = ("kind", "backend", "volume", "volume_id", "job_id", "actor", "reason", "data")
        assert {name: one[name] for name in names} == {name: getattr(row, name) for name in names}
        assert datetime.fromisoformat(one["at"]) == row.at
    found = verified(record)
    assert found.broken is None
    assert (found.number, found.link, found.events) == (was.number, was.link, was.number)
    chained(record)
    assert verified(record).number == was.number + 3
    # Each file has whole commits, and what one needs to verify it alone.
    for path, row in zip(files(record), rows(record), strict=True):
        assert path.stat().st_mode & 0o777 == 0o600
        first = lines(path)[0]["commit"]
        assert first["before"] == row.link_before.hex()


def test_numbers_and_links_go_on_when_everything_was_archived(record: Installation) -> None:
    last, link = head(record)
    archived(record, most=10_000, times=1)
    assert rows(record)[-1].last == last
    with record.database.read() as transaction:
        left = transaction.execute(select(event_commits).where(event_commits.c.base.is_not(None)))
        assert left.all() == []
        assert latest_number(transaction) == last
        for after in (0, last - 1):
            with pytest.raises(Gone) as caught:
                read_after(transaction, after, 10)
            assert caught.value.facts["oldest"] == last + 1
        assert read_after(transaction, last, 10) == []
    assert head(record) == (last, link)
    assert verified(record).number == last
    assert verified(record, after=last, link=link).broken is None
    happen(record, 0, 0)
    chained(record)
    with record.database.read() as transaction:
        numbers = [row.number for row in read_after(transaction, last, 100)]
    assert numbers == list(range(last + 1, last + 1 + len(numbers)))
    assert verified(record).broken is None
    assert verified(record).number == numbers[-1]


def test_whole_commits_leave_as_far_as_all_before_them_do(empty: Installation) -> None:
    for ages in ((9, 9), (8,), (3,), (9,)):
        happen(empty, *ages)
    happen(empty, 9)
    assert archived(empty, days=5.0) == 0, "nothing has a link yet"
    chained(empty)
    with empty.database.read() as transaction:
        first = transaction.execute(
            select(func.min(event_commits.c.base))
            .join(events, events.c.commit_id == event_commits.c.id)
            .where(events.c.kind == "test.happened", events.c.seq == 1)
        ).scalar_one()
    assert first == 0
    assert archived(empty, days=5.0) == 1
    assert rows(empty)[-1].last == 3
    assert archived(empty, days=5.0) == 0


def test_a_commit_with_more_events_than_a_file_shall_have_is_one_file(empty: Installation) -> None:
    happen(empty, *[9] * 12)
    happen(empty, 9)
    chained(empty)
    archived(empty, most=5, times=2)
    assert [(row.base, row.last) for row in rows(empty)] == [(0, 12), (12, 13)]


def test_a_file_of_a_transaction_that_failed_is_used(record: Installation) -> None:
    def work(transaction: Transaction) -> None:
        assert archive_events(
            transaction, KEY, record.settings.archive, older_than_days=AT_ONCE, most=5
        )
        raise RuntimeError("it dies before it commits")

    total = count(record)
    with pytest.raises(RuntimeError):
        record.database.transact(work)
    [left] = files(record)
    before = left.read_bytes()
    assert count(record) == total
    assert verified(record).broken is None
    assert archived(record, most=10_000, times=1) == 1
    assert files(record) == [left]
    assert left.read_bytes() == before
    assert verified(record).broken is None
    archived(record, most=10_000, times=1)
    assert verified(record).broken is None


def test_a_file_of_another_history_is_not_overwritten(record: Installation) -> None:
    archived(record, times=1)
    [kept] = files(record)
    content = kept.read_bytes()
    # The database is one that was kept from before, and has gone on otherwise since.
    documents = lines(kept)
    documents[0]["commit"]["link"] = "00" * 32
    other = kept.with_name(f"events-{rows(record)[0].last + 1}-")
    with record.database.read() as transaction:
        second = chain.links_after(transaction, rows(record)[0].last)[0]
    foreign = other.with_name(f"{other.name}{second.base + second.events}.jsonl.gz")
    foreign.write_bytes(gzip.compress("\n".join(map(json.dumps, documents)).encode()))
    before = foreign.read_bytes()
    with pytest.raises(WrongState, match="not of this history"):
        archived(record, times=1)
    assert (foreign.read_bytes(), kept.read_bytes()) == (before, content)
    foreign.rename(foreign.with_suffix(".away"))
    assert archived(record, times=1) == 1


def test_two_schedulers_archive_each_event_once(record: Installation) -> None:
    last, _ = head(record)
    threads = [
        threading.Thread(target=lambda: [archived(record, most=3, times=1) for _ in range(20)])
        for _ in range(2)
    ]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    archived(record, most=3)
    found = rows(record)
    assert [row.base for row in found] == [0, *(row.last for row in found[:-1])]
    assert found[-1].last == last
    assert len(files(record)) == len(found)
    chained(record)
    assert verified(record).broken is None


def test_what_is_not_as_it_was_written_stays_in_the_database(record: Installation) -> None:
    change(record, update(events).where(events.c.kind == "volume.grow").values(actor="nobody"))
    with pytest.raises(WrongState, match="it is not as it was written"):
        archived(record, most=10_000)
    change(record, delete(events).where(events.c.kind == "volume.grow"))
    with pytest.raises(WrongState, match="it is missing"):
        archived(record, most=10_000)
    assert rows(record) == [] and files(record) == []


# -- tampering ----------------------------------------------------------------------------


def _missing(engine: Kept) -> None:
    files(engine)[1].unlink()


def _a_byte(engine: Kept) -> None:
    path = files(engine)[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut_short(engine: Kept) -> None:
    path = files(engine)[1]
    path.write_bytes(path.read_bytes()[:-20])
    _fits(engine, path)


def _fits(engine: Kept, path: Path) -> None:
    """Who owns the database makes the row tell the file's new hash."""
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    change(
        engine,
        update(event_archives).where(event_archives.c.file == path.name).values(sha256=sha256),
    )


def _rewrite(engine: Kept, alter: Callable[[list[Any]], None]) -> None:
    path = files(engine)[1]
    documents = lines(path)
    alter(documents)
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, documents)).encode()))
    _fits(engine, path)


def _another_actor(engine: Kept) -> None:
    _rewrite(engine, lambda documents: documents[-1].update(actor="nobody"))


def _without_its_end(engine: Kept) -> None:
    def alter(documents: list[Any]) -> None:
        while "commit" not in documents.pop():
            pass

    _rewrite(engine, alter)


def _packed_anew(engine: Kept) -> None:
    _rewrite(engine, lambda _: None)


def _no_row(engine: Kept) -> None:
    change(engine, delete(event_archives).where(event_archives.c.base == rows(engine)[1].base))


def _no_rows(engine: Kept) -> None:
    change(engine, delete(event_archives))


def _deleted_says_the_row(engine: Kept) -> None:
    change(
        engine,
        update(event_archives)
        .where(event_archives.c.base == rows(engine)[0].base)
        .values(deleted_at=datetime.now(UTC)),
    )


#: What is done, to the row of which place, and what is told of it.
TAMPERING: list[tuple[Callable[[Installation], None], int, str]] = [
    (_missing, 1, "the archive {file} is missing"),
    (_a_byte, 1, "the archive {file} is not as it was written"),
    (_cut_short, 1, "the archive {file} cannot be read"),
    (_another_actor, 1, "its commit is not as it was written in the archive {file}"),
    (_without_its_end, 1, "the archive {file} ends otherwise than is recorded of it"),
    (_packed_anew, 1, "no event of the chain tells that the archive {file} was written so"),
    (_no_row, 1, "does not continue what is before it"),
    (_no_rows, 0, "links are missing up to event"),
    (_deleted_says_the_row, 0, "no event of the chain tells that the archive {file} was del"),
]


def test_tampering_with_archives_is_named(
    record: Installation, subtests: pytest.Subtests, tmp_path: Path
) -> None:
    archived(record, times=3)
    chained(record)
    recorded = rows(record)
    shutil.copytree(record.settings.archive, tmp_path / "kept")
    for tamper, place, why in TAMPERING:
        with subtests.test(tamper.__name__):
            tamper(record)
            broken = verified(record).broken
            assert broken is not None
            row = recorded[place]
            assert row.base < broken.number <= row.last or "ends otherwise" in why
            assert why.format(file=row.file) in broken.why
        shutil.rmtree(record.settings.archive)
        shutil.copytree(tmp_path / "kept", record.settings.archive)
        with record.database.write() as transaction:
            transaction.execute(delete(event_archives))
            transaction.execute(insert(event_archives), [row._asdict() for row in recorded])
    assert verified(record).broken is None


def test_an_old_end_that_was_cut_off_is_not_made_good_by_a_row(record: Installation) -> None:
    with record.database.write() as transaction:
        links = chain.links_after(transaction, 0)[:3]
        last = links[-1].base + links[-1].events
        ids = [one.commit_id for one in links]
        transaction.execute(delete(events).where(events.c.commit_id.in_(ids)))
        transaction.execute(delete(event_commits).where(event_commits.c.id.in_(ids)))
        transaction.execute(delete(event_chain).where(event_chain.c.base < last))
    assert verified(record).broken == Broken(1, f"links are missing up to event {last}")
    forged = {
        "base": 0,
        "last": last,
        "file": "events-1.jsonl.gz",
        "sha256": "0" * 64,
        "link_before": chain.GENESIS,
        "link_after": links[-1].link,
        "archived_at": datetime.now(UTC),
    }
    for deleted_at in (None, datetime.now(UTC)):
        with record.database.write() as transaction:
            transaction.execute(delete(event_archives))
            transaction.execute(insert(event_archives).values(**forged, deleted_at=deleted_at))
        for archives in (True, False):
            broken = verified(record, archives=archives).broken
            assert broken is not None and broken.number == 1
        assert broken is not None and "no event of the chain tells" in broken.why
    # Nor by an event that says so, which gets its link like every other.
    told = {"events": {"first": 1, "last": last, "link": links[-1].link.hex(), "files": []}}
    with record.database.write() as transaction:
        events_of_others = [Event(kind="archives.deleted", actor="somebody", data=told)]
        write(transaction, events_of_others, datetime.now(UTC))
    for _ in range(2):
        broken = verified(record).broken
        assert broken is not None and "no event of the chain tells" in broken.why
        chained(record)


# -- parts --------------------------------------------------------------------------------


def test_a_verification_goes_on_inside_an_archive(record: Installation) -> None:
    archived(record, most=9, times=3)
    chained(record)
    heads = [
        (one["number"] - 1 + one["commit"]["events"], one["commit"]["link"])
        for one in lines(*files(record))
        if "commit" in one
    ]
    total = verified(record).events
    for number, link in heads:
        found = verified(record, after=number, link=link)
        assert (found.broken, found.events) == (None, total - number)
    middle = heads[1]
    assert verified(record, after=middle[0], link="00" * 32).broken == Broken(
        middle[0], "the chain had another link there"
    )
    inside = next(n for n in range(1, heads[-1][0]) if n not in dict(heads))
    with pytest.raises(InvalidInput):
        verified(record, after=inside)
    assert verified(record, after=inside, link="00" * 32).broken == Broken(
        inside, "no link ends there: it was cut off"
    )
    with pytest.raises(InvalidInput, match="left out"):
        verified(record, after=heads[0][0], archives=False)


def test_the_database_alone_is_verified_where_the_archives_are_elsewhere(
    record: Installation,
) -> None:
    archived(record, times=3)
    chained(record)
    last = rows(record)[-1].last
    for path in files(record):
        path.unlink()
    found = verified(record, archives=False)
    assert (found.broken, found.events) == (None, found.number - last)
    with record.database.read() as transaction:
        assert verification.unread(transaction, None) == [
            f"events 1 to {last}: they are in archives"
        ]
    change(record, update(events).where(events.c.commit_id > 0).values(actor="nobody"))
    assert verified(record, archives=False).broken is not None


def test_what_archives_told_of_archives_is_found_in_archives(record: Installation) -> None:
    for _ in range(4):
        happen(record, 0)
        archived(record, most=4, times=3)
        chained(record)
    kinds = [one["kind"] for one in lines(*files(record))]
    assert "events.archived" in kinds
    assert verified(record).broken is None
    assert verified(record, archives=False).broken is None


# -- deletion -----------------------------------------------------------------------------


def expired(engine: Kept, days: float = AT_ONCE) -> list[str]:
    return engine.database.transact(
        lambda transaction: expiry.expire(
            transaction, KEY, engine.settings.archive, older_than_days=days
        )
    )


def test_what_the_retention_deletes_is_an_event_and_verification_begins_behind_it(
    busy: Engine,
) -> None:
    archived(busy, times=3)
    [ended, *_] = range(1, 2)
    busy.database.transact(lambda transaction: ask_for(transaction, [ended]))
    busy.database.transact(
        lambda transaction: archive_jobs(transaction, busy.settings.archive, older_than_days=None)
    )
    assert expired(busy, days=1.0) == []
    names = expired(busy)
    assert len(names) == 4
    # Whoever dies now has left the files of events, which the next one takes away.
    assert set(
        busy.database.look(
            lambda transaction: expiry.left_over(transaction, KEY, busy.settings.archive)
        )
    ) == set(names)
    expiry.unlink(busy.settings.archive, names)
    assert list(busy.settings.archive.iterdir()) == []
    found = rows(busy)
    assert all(row.deleted_at is not None for row in found)
    last = found[-1].last
    for archives in (True, False):
        assert verified(busy, archives=archives).broken is None
    with busy.database.read() as transaction:
        told = transaction.execute(
            select(events.c.data).where(events.c.kind == "archives.deleted")
        ).scalar_one()
        assert verification.unread(transaction, busy.settings.archive) == [
            f"events 1 to {last}: deleted, as the retention says"
        ]
    assert told["events"] == {
        "first": 1,
        "last": last,
        "link": found[-1].link_after.hex(),
        "files": [row.file for row in found],
    }
    assert set(names) == {*told["events"]["files"], *told["jobs"]["files"]}
    chained(busy)
    archived(busy, times=1)
    chained(busy)
    assert verified(busy).broken is None
    assert expired(busy, days=1.0) == []
    change(busy, delete(events).where(events.c.kind == "archives.deleted"))
    assert verified(busy).broken is not None


def test_files_of_jobs_are_as_old_as_what_they_hold(busy: Engine) -> None:
    busy.database.transact(lambda transaction: ask_for(transaction, [1]))
    busy.database.transact(
        lambda transaction: archive_jobs(transaction, busy.settings.archive, older_than_days=None)
    )
    [path] = busy.settings.archive.glob("jobs-*")
    # The clock of this host was wrong when it wrote the file.
    os.utime(path, (0, 0))
    assert expired(busy, days=1.0) == []
    assert path.exists()


# -- reading ------------------------------------------------------------------------------


def test_jobs_outlive_their_events(busy: Engine) -> None:
    chained(busy)
    archived(busy, most=10_000)
    with busy.database.read() as transaction:
        assert job_view(transaction, 1)["state"] == "succeeded"
    busy.database.transact(lambda transaction: ask_for(transaction, [1]))
    busy.database.transact(
        lambda transaction: archive_jobs(transaction, busy.settings.archive, older_than_days=None)
    )
    chained(busy)
    archived(busy, most=10_000)
    with busy.database.read() as transaction, pytest.raises(Gone, match="audit read"):
        job_view(transaction, 1)


def test_the_command_line_reads_and_verifies_archives(
    busy: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archived(busy, times=4)
    busy.database.transact(lambda transaction: ask_for(transaction, [1]))
    busy.database.transact(
        lambda transaction: archive_jobs(transaction, busy.settings.archive, older_than_days=None)
    )
    config = tmp_path / "orchestrator.toml"
    config.write_text(
        f'data = "{tmp_path}"\n[database]\nurl = "{busy.settings.database_url}"\n'
        f'[audit]\nkey = "{KEY.decode()}"\n'
    )

    def told(*words: str, status: int = 0) -> Any:
        capsys.readouterr()
        assert run([*words, "--json"]) == status
        return json.loads(capsys.readouterr().out)

    paths = [str(path) for path in busy.settings.archive.iterdir()]
    everything = told("audit", "read", *paths)["items"]
    numbered = [one["number"] for one in everything if "number" in one]
    assert sorted(numbered) == list(range(1, rows(busy)[-1].last + 1))
    assert [one["id"] for one in everything if "action" in one] == [1]
    few = told("audit", "read", *paths, "--kind", "job.started", "--volume", "vm3")["items"]
    assert [(one["kind"], one["volume"]) for one in few] == [("job.started", "vm3")]
    assert run(["audit", "read", *paths]) == 0
    assert "job.submitted" in (shown := capsys.readouterr().out) and "volume.create" in shown
    assert told("audit", "read", str(config), status=2)["code"] == "invalid_input"

    verify = ("audit", "verify", "--config", str(config))
    found = told(*verify)
    assert (found["intact"], found["not_verified"]) == (True, [])
    assert found["events"] == found["number"]
    found = told(*verify, "--no-archives")
    assert found["intact"] and len(found["not_verified"]) == 1
    elsewhere = tmp_path / "elsewhere"
    busy.settings.archive.rename(elsewhere)
    assert told(*verify, status=1)["broken"]["number"] == 1
    assert told(*verify, "--archive", str(elsewhere))["intact"]


def test_who_asks_for_archived_events_is_told_where_they_begin(record: Installation) -> None:
    archived(record, times=2)
    chained(record)
    oldest = rows(record)[-1].last + 1
    _, token = record.database.transact(
        lambda transaction: tokens.create(transaction, "reader", Role.READER, "tests")
    )
    service = Service(record.settings)

    app = create_app(service)

    async def ask(after: int | None, accept: str) -> Any:
        transport = httpx.ASGITransport(served(app, service))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            headers = {"Authorization": f"Bearer {token}", "Accept": accept}
            params = {} if after is None else {"after": after}
            return await client.get("/v1/events", params=params, headers=headers)

    try:
        for accept in ("application/json", "text/event-stream"):
            answer = asyncio.run(ask(1, accept))
            assert (answer.status_code, answer.json()["code"]) == (410, "gone")
            assert answer.json()["oldest"] == oldest
        # Whoever names no number gets what is left.
        left = asyncio.run(ask(None, "application/json"))
        assert (left.status_code, left.json()["items"][0]["number"]) == (200, oldest)
        page = asyncio.run(ask(oldest - 1, "application/json")).json()
        assert page["items"][0]["number"] == oldest
    finally:
        service.close()


def test_the_scheduler_archives_what_is_old_and_deletes_what_is_older(empty: Installation) -> None:
    happen(empty, 9, 9)
    happen(empty, 1)
    retention = {"events_days": 5.0, "archive": str(empty.settings.data / "elsewhere")}
    settings = empty.settings.model_copy(
        update={"retention": RetentionSettings.model_validate(retention)}
    )
    scheduler = Scheduler(settings)
    try:
        scheduler.tick()
        assert [(row.base, row.last) for row in rows(empty)] == [(0, 2)]
        assert (settings.archive / "events-1-2.jsonl.gz").exists()
        scheduler._delete_archives(AT_ONCE)
        assert list(settings.archive.iterdir()) == []
        # What someone left who died between the record and the deletion goes, too.
        (settings.archive / "events-1-2.jsonl.gz").write_bytes(b"")
        scheduler._delete_archives(AT_ONCE)
        assert list(settings.archive.iterdir()) == []
    finally:
        scheduler.close()


def test_few_events_wait_for_others_and_archives_do_not_beget_archives(
    empty: Installation,
) -> None:
    def leave(days: float, most: int = 50) -> list[tuple[int, int]]:
        chained(empty)
        archived(empty, most, days=days, times=20)
        return [(row.base, row.last) for row in rows(empty)]

    for hours in range(30, 0, -1):
        happen(empty, (hours + 0.5) / 24)
    assert leave(1.0) == []  # seven are older than a day, the first by six hours and a half
    assert leave(1.0, most=5) == [(0, 5)]  # enough for a file
    assert leave(1.0) == [(0, 5)]
    assert leave(0.5) == [(0, 5), (5, 19)]  # what may leave after half a day waits no longer
    assert leave(0.5) == [(0, 5), (5, 19)]
    before = leave(AT_ONCE)
    assert before == [(0, 5), (5, 19), (19, 32)]
    # What was told of the last archive is left, however old it gets, until others leave, too.
    for _ in range(3):
        assert leave(AT_ONCE) == before
    happen(empty, 0)
    assert leave(AT_ONCE) == [*before, (32, 34)]
    assert verified(empty).broken is None


def test_a_row_altered_by_hand_deletes_no_archive(busy: Engine) -> None:
    archived(busy, times=2)
    kept = {path.name for path in files(busy)}
    change(busy, update(event_archives).values(deleted_at=event_archives.c.archived_at))
    left = busy.database.look(
        lambda transaction: expiry.left_over(transaction, KEY, busy.settings.archive)
    )
    assert left == []
    change(busy, update(event_archives).values(deleted_at=None, archived_at=db_now(-1e9)))
    assert expired(busy, days=1.0) == []
    forged = {"events": {"files": sorted(kept)}}
    tried: list[Any] = [forged, {**forged, "mac": "\u00fc"}, []]
    tried.append(signed(b"another key", "archives.deleted", forged))
    for told in tried:
        first = update(events).where(events.c.seq == 1)
        change(busy, first.values(kind="archives.deleted", data=told))
        left = busy.database.look(
            lambda transaction: expiry.left_over(transaction, KEY, busy.settings.archive)
        )
        assert left == []
    assert {path.name for path in files(busy)} == kept
