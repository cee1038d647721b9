"""Every named query, on both databases: it does what its declaration says."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import IntegrityError

import orchestrator
import workers
from orchestrator.domain.queues import CONTROL_QUEUE, GROUP_BUDGET
from orchestrator.store import bulk, queries
from orchestrator.store.asking import Query
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.postgresql.statements import WRITERS
from orchestrator.store.queries.claiming import (
    BeginLanes,
    ClaimJobs,
    LockRunning,
    NextJobs,
    QueuesWithJobs,
    RenewLeases,
    RunningJobs,
    SeeWorker,
    VolumesClaimed,
)
from orchestrator.store.queries.finishing import (
    AddPromised,
    CloseJournals,
    CountEnded,
    Dependents,
    HoldJobs,
    OthersInLanes,
    ReleaseLanes,
)
from orchestrator.store.queries.lanes import (
    Heads,
    HoldUnfinished,
    LockStripes,
    LockWaiting,
    Promote,
    Tails,
)
from orchestrator.store.queries.loading import JobsInLanes, VolumesNamed, VolumesRecorded
from orchestrator.store.queries.reports import CapacityDays
from orchestrator.store.sqlite.statements import RUNNERS
from orchestrator.store.tables import capacity_days as capacity
from orchestrator.store.tables import event_commits, events, job_lanes, job_steps, jobs, promises
from orchestrator.store.tables import workers as processes
from orchestrator.store.transaction import Transaction
from tests.engine.conftest import Engine, act, create, grow


def declared() -> set[type[Query[Any]]]:
    """Every query of the protocol."""
    modules = [
        bulk,
        *(
            importlib.import_module(f"{queries.__name__}.{one.name}")
            for one in pkgutil.iter_modules(queries.__path__)
        ),
    ]
    return {
        found
        for module in modules
        for found in vars(module).values()
        if isinstance(found, type)
        and issubclass(found, Query)
        and found.__module__ == module.__name__
    }


_QUEUE: dict[str, Any] = {
    "queue": "backend.ram",
    "control": CONTROL_QUEUE,
    "backends": [1],
    "most": 10,
    "budget": GROUP_BUDGET,
    "slow": True,
}


def _claim(*ids: int) -> ClaimJobs:
    return ClaimJobs(ids=list(ids), worker="w", lease=30.0, **_QUEUE)


def _begun(transaction: Transaction, lane: str) -> list[bool]:
    found = select(job_lanes.c.begun).where(job_lanes.c.lane == lane).order_by(job_lanes.c.job_id)
    return [bool(one) for one in transaction.execute(found).scalars()]


def _let_wait(transaction: Transaction, *ids: int) -> None:
    transaction.execute(
        update(jobs).where(jobs.c.id.in_(ids)).values(state="waiting", queued_at=None)
    )


def lock_stripes(engine: Engine, transaction: Transaction) -> None:
    [[locked]] = transaction.ask(LockStripes(kind=7, stripes=[1, 2, 3]))
    assert abs(locked.now - datetime.now(UTC)) < timedelta(minutes=5)


def heads(engine: Engine, transaction: Transaction) -> None:
    [first, _] = engine.submit(create("a"), grow("a", "2M"), batch=False).job_ids
    [found] = transaction.ask(Heads(["ram/a", "ram/nothing"]))
    assert [row.head for row in found] == [first, None]


def tails(engine: Engine, transaction: Transaction) -> None:
    [_, last] = engine.submit(create("a"), grow("a", "2M"), batch=False).job_ids
    [found] = transaction.ask(Tails(["ram/nothing", "ram/a"]))
    assert [row.head for row in found] == [None, last]


def hold_unfinished(engine: Engine, transaction: Transaction) -> None:
    [ended] = engine.submit(create("a")).job_ids
    engine.work()
    [coming] = engine.submit(create("b")).job_ids
    [found] = transaction.ask(HoldUnfinished([ended, coming]))
    assert [row.id for row in found] == [coming]


def lock_waiting(engine: Engine, transaction: Transaction) -> None:
    first, last = engine.submit(create("a"), grow("a", "2M"), batch=False).job_ids
    [found] = transaction.ask(LockWaiting([first, last]))
    assert [row.id for row in found] == [last]


def promote(engine: Engine, transaction: Transaction) -> None:
    first, last = engine.submit(create("a"), grow("a", "2M"), batch=False).job_ids
    [other] = engine.submit(create("b")).job_ids
    _let_wait(transaction, first, other)
    [found] = transaction.ask(Promote([first, last, other]))
    assert [row.queue for row in found] == ["backend.ram"] * 2
    [waiting] = transaction.ask(LockWaiting([first, last, other]))
    assert [row.id for row in waiting] == [last]


def claim_jobs(engine: Engine, transaction: Transaction) -> None:
    first, *_ = engine.submit(create("a"), grow("a", "2M"), batch=False).job_ids
    [second] = engine.submit(create("b", reason="why")).job_ids
    [other] = engine.submit(create("c")).job_ids
    [found] = transaction.ask(_claim(first, second))
    assert sorted(row["id"] for row in found) == [first, second]
    assert len({row["fence"] for row in found}) == 2
    by_id = {row["id"]: row for row in found}
    assert by_id[second]["params"]["size_bytes"] == 1 << 20
    assert (by_id[second]["attempt"], by_id[second]["reason"]) == (1, "why")
    assert by_id[second]["now"].tzinfo is not None
    state = select(jobs.c.state, jobs.c.worker, jobs.c.fence).where(jobs.c.id == second)
    assert tuple(transaction.execute(state).one()) == ("running", "w", by_id[second]["fence"])
    assert list(transaction.ask(_claim(first, second))[0]) == []
    assert [row["id"] for row in transaction.ask(_claim(second, other))[0]] == [other]


def queues_with_jobs(engine: Engine, transaction: Transaction) -> None:
    engine.submit(create("a"), grow("a", "2M"))
    engine.submit(create("b", run_at="2999-01-01T00:00:00Z", backend="fast"))
    [found] = transaction.ask(QueuesWithJobs(["control", "backend.fast", "backend.ram"]))
    assert [row.queue for row in found] == ["backend.ram"]


def next_jobs(engine: Engine, transaction: Transaction) -> None:
    low, _ = engine.submit(create("a", priority=1), grow("a", "2M"), batch=False).job_ids
    [high] = engine.submit(create("b", priority=-1)).job_ids
    engine.submit(create("c", backend="fast"))
    [found] = transaction.ask(NextJobs(**_QUEUE))
    assert [row.id for row in found] == [high, low]
    [found] = transaction.ask(NextJobs(**{**_QUEUE, "most": 1}))
    assert [row.id for row in found] == [high]


def jobs_in_lanes(engine: Engine, transaction: Transaction) -> None:
    first, last = engine.submit(create("a"), grow("a", "2M"), batch=False).job_ids
    [other] = engine.submit(create("b"), batch=False).job_ids
    later = datetime.now(UTC) + timedelta(days=1)
    transaction.execute(update(jobs).where(jobs.c.id == last).values(not_before=later))
    [found] = transaction.ask(JobsInLanes(["ram/b", "ram/a", "ram/nothing"]))
    assert [(row["lane"], row["id"], row["blocks"]) for row in found] == [
        ("ram/a", first, True),
        ("ram/a", last, False),
        ("ram/b", other, True),
    ]
    assert found[1]["not_before"] == later
    assert found[1]["params"] == {"size_bytes": 2 << 20}
    assert not found[1]["targets"]


def volumes_named(engine: Engine, transaction: Transaction) -> None:
    engine.submit(create("a"), create("a", backend="fast"), create("b"), create("gone"))
    engine.work()
    engine.submit(act("volume.remove", "gone"))
    engine.work()
    asked = VolumesNamed(["fast", "ram", "ram", "ram"], ["a", "b", "gone", "nothing"])
    [found] = transaction.ask(asked)
    there = {(row["backend"], row["name"], row["size_bytes"]) for row in found}
    # Which is on another of the backends does no harm.
    assert there - {("ram", "a", 1 << 20)} == {("fast", "a", 1 << 20), ("ram", "b", 1 << 20)}


def volumes_recorded(engine: Engine, transaction: Transaction) -> None:
    gone, *kept = (f"v{number}" for number in range(4))
    engine.submit(*(create(name) for name in (gone, *kept)))
    engine.submit(act("volume.attach", kept[1], host="here"))
    engine.submit(*(act("snapshot.create", kept[0], snapshot=name) for name in ("b", "a")))
    engine.submit(act("volume.remove", gone))
    engine.work()
    [found] = transaction.ask(VolumesRecorded(backend_id=1, after="", most=2))
    assert [(row.name, row.attached) for row in found] == [(kept[0], False), (kept[1], True)]
    written = json.loads(found[0].written)
    assert written[:5] == [kept[0], 2**20, {}, {}, None]
    assert [(name, size) for _, name, size in written[5]] == [("b", 2**20), ("a", 2**20)]
    [rest] = transaction.ask(VolumesRecorded(backend_id=1, after=kept[1], most=2))
    assert [row.name for row in rest] == [kept[2]]


def volumes_claimed(engine: Engine, transaction: Transaction) -> None:
    engine.submit(create("a"), create("b"))
    engine.work()
    [job_id] = engine.submit(grow("a", "2M")).job_ids
    claimed, found = transaction.ask_along(_claim(job_id), VolumesClaimed([1], 10))
    assert [(row["backend"], row["name"], row["size_bytes"]) for row in found] == [
        ("ram", "a", 1 << 20)
    ]
    assert found[0]["metadata"] == {}
    assert len(claimed) == 1


def begin_lanes(engine: Engine, transaction: Transaction) -> None:
    first, _ = engine.submit(create("a"), grow("a", "2M"), batch=False).job_ids
    transaction.ask(BeginLanes([first]))
    assert _begun(transaction, "ram/a") == [True, False]


def _running(engine: Engine, transaction: Transaction) -> tuple[int, int]:
    """A job that runs, and one that does not."""
    [first] = engine.submit(create("a")).job_ids
    [second] = engine.submit(create("b", backend="fast")).job_ids
    transaction.ask(_claim(first, second))
    return first, second


def lock_running(engine: Engine, transaction: Transaction) -> None:
    running, queued = _running(engine, transaction)
    [found] = transaction.ask(LockRunning([queued, running]))
    assert [row.id for row in found] == [running]


def running_jobs(engine: Engine, transaction: Transaction) -> None:
    running, queued = _running(engine, transaction)
    transaction.execute(update(jobs).values(cancel_requested_at=db_now()))
    [[found]] = transaction.ask(RunningJobs([queued, running]))
    assert found.id == running
    assert found.cancel_requested_at is not None
    assert found.cancel_requested_at.tzinfo is not None


def renew_leases(engine: Engine, transaction: Transaction) -> None:
    running, _ = _running(engine, transaction)
    transaction.ask(RenewLeases([running], 3600.0))
    query = select(jobs.c.lease_expires_at, db_now()).where(jobs.c.id == running)
    until, now = transaction.execute(query).one()
    assert timedelta(minutes=59) < until - now < timedelta(minutes=61)


def see_worker(engine: Engine, transaction: Transaction) -> None:
    for queues in ('["a"]', '["a", "b"]'):
        transaction.ask(SeeWorker("w", "here", 7, None, queues))
    seen = select(processes).where(processes.c.id == "w")
    row = transaction.execute(seen).one()
    assert (row.host, row.pid, row.boot_id, row.queues) == ("here", 7, None, ["a", "b"])
    assert row.started_at <= row.seen_at


def hold_jobs(engine: Engine, transaction: Transaction) -> None:
    running, queued = _running(engine, transaction)
    [found] = transaction.ask(HoldJobs([queued, running]))
    assert [(row.id, row.state) for row in found] == [(running, "running"), (queued, "queued")]
    assert (found[0].worker, found[0].promised_bytes) == ("w", 1 << 20)
    assert found[0].now.tzinfo is not None


def dependents(engine: Engine, transaction: Transaction) -> None:
    first, last = engine.submit(create("a", ref="first"), create("b", depends_on=["first"])).job_ids
    [found] = transaction.ask(Dependents([first, last]))
    assert [tuple(row) for row in found] == [(last, first)]


def others_in_lanes(engine: Engine, transaction: Transaction) -> None:
    first, last = engine.submit(create("a"), grow("a", "2M"), batch=False).job_ids
    found, none = transaction.ask(
        OthersInLanes(["ram/a"], [first]), OthersInLanes(["ram/a"], [first, last])
    )
    assert ([row.id for row in found], list(none)) == ([last], [])


def close_journals(engine: Engine, transaction: Transaction) -> None:
    running, _ = _running(engine, transaction)
    step = {"job_id": running, "seq": 1, "fence": 1, "name": "a", "state": "intended"}
    bulk.insert_rows(transaction, job_steps, [{**step, "detail": {}, "at": datetime.now(UTC)}])
    transaction.ask(CloseJournals([running]))
    assert transaction.execute(select(job_steps.c.state)).scalars().all() == ["done"]


def release_lanes(engine: Engine, transaction: Transaction) -> None:
    first, _ = engine.submit(create("a"), grow("a", "2M"), batch=False).job_ids
    transaction.ask(ReleaseLanes([first]))
    assert _begun(transaction, "ram/a") == [False]


def count_ended(engine: Engine, transaction: Transaction) -> None:
    batch = engine.submit(create("a"), create("b"), create("c")).batch_id
    assert batch is not None
    now = datetime(2026, 1, 1, 1, 2, 3, 4, UTC)
    [first], [last] = transaction.ask(
        CountEnded(batch, 1, 1, 0, now), CountEnded(batch, 0, 0, 1, now)
    )
    assert (tuple(first), tuple(last)) == ((batch, None), (batch, now))


def add_promised(engine: Engine, transaction: Transaction) -> None:
    sums = select(promises.c.promised_bytes, promises.c.limit_bytes).where(
        promises.c.backend_id == 1
    )
    transaction.ask(AddPromised(1, 7, None), AddPromised(1, -3, 10))
    assert tuple(transaction.execute(sums).one()) == (4, 10)
    with pytest.raises(IntegrityError), transaction.savepoint():
        transaction.ask(AddPromised(1, 7, 10))


def capacity_days(engine: Engine, transaction: Transaction) -> None:
    sums = ("total_bytes", "free_bytes", "promised_bytes", "volume_bytes", "used_bytes")
    counts = dict.fromkeys((*sums, "volumes", "snapshots"), 5)
    days = [
        {"backend_id": 1, "day": date(2026, 1, day), "at": datetime(2026, 1, day, 12, tzinfo=UTC)}
        for day in (1, 2, 3)
    ]
    transaction.execute(capacity.insert(), [{**day, **counts} for day in days])
    first, last = date(2026, 1, 1), date(2026, 1, 31)
    [found] = transaction.ask(CapacityDays("ram", first, last, 2))
    assert [row["day"] for row in found] == [date(2026, 1, 2), date(2026, 1, 3)]
    assert found[0]["at"] == datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert list(transaction.ask(CapacityDays("other", first, last, 2))[0]) == []


def drawn(engine: Engine, transaction: Transaction) -> None:
    first = bulk.draw(transaction, "batches", 3)
    assert first == [first[0], first[0] + 1, first[0] + 2]
    assert bulk.draw(transaction, "batches", 1)[0] > first[-1]
    assert bulk.draw(transaction, "batches", 0) == []


def inserted(engine: Engine, transaction: Transaction) -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [
        {"seq": seq, "at": at, "kind": f"a.{seq}", "actor": "me", "data": data}
        for seq, data in ((1, {"a": 'b"'}), (2, None))
    ]
    parent = bulk.Parent(event_commits, "commits", "commit_id")
    transaction.ask(bulk.inserted_family(parent, {"events": 2}, events, rows))
    found = transaction.execute(
        select(events.c.kind, events.c.data, events.c.at)
        .where(events.c.actor == "me")
        .order_by(events.c.seq)
    )
    assert [tuple(row) for row in found] == [("a.1", {"a": 'b"'}, at), ("a.2", None, at)]


def updated(engine: Engine, transaction: Transaction) -> None:
    ids = engine.submit(create("a"), create("b")).job_ids
    rows = [{"id": one, "progress": {"done": one}, "worker": f"w{one}"} for one in ids]
    bulk.update_rows(transaction, jobs, ["id"], rows)
    found = select(jobs.c.id, jobs.c.progress, jobs.c.worker).order_by(jobs.c.id)
    assert [tuple(row.values()) for row in rows] == [
        tuple(row) for row in transaction.execute(found)
    ]


CASES: dict[type[Query[Any]], Callable[[Engine, Transaction], None]] = {
    LockStripes: lock_stripes,
    Heads: heads,
    Tails: tails,
    HoldUnfinished: hold_unfinished,
    LockWaiting: lock_waiting,
    Promote: promote,
    ClaimJobs: claim_jobs,
    NextJobs: next_jobs,
    QueuesWithJobs: queues_with_jobs,
    JobsInLanes: jobs_in_lanes,
    VolumesNamed: volumes_named,
    VolumesRecorded: volumes_recorded,
    VolumesClaimed: volumes_claimed,
    BeginLanes: begin_lanes,
    LockRunning: lock_running,
    RunningJobs: running_jobs,
    RenewLeases: renew_leases,
    SeeWorker: see_worker,
    HoldJobs: hold_jobs,
    Dependents: dependents,
    OthersInLanes: others_in_lanes,
    CloseJournals: close_journals,
    ReleaseLanes: release_lanes,
    CountEnded: count_ended,
    AddPromised: add_promised,
    CapacityDays: capacity_days,
    bulk.Drawn: drawn,
    bulk.Inserted: inserted,
    bulk.Updated: updated,
}


def test_two_who_promise_at_once_are_both_counted(engine: Engine) -> None:
    if not engine.database.is_postgresql:
        pytest.skip("SQLite has one writer")
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted")

    def second() -> None:
        engine.database.transact(lambda transaction: transaction.ask(AddPromised(1, 30, None)))

    with engine.database.write() as first:
        first.ask(AddPromised(1, 12, None))
        other = threading.Thread(target=second)
        other.start()
        with engine.database.read() as looking:
            while not looking.execute(waiting).scalar_one():
                assert other.is_alive()
    other.join()
    kept = select(promises.c.promised_bytes).where(promises.c.backend_id == 1)
    with engine.database.read() as transaction:
        assert transaction.execute(kept).scalars().all() == [42]


class _Later:
    """A transaction that begins with the first statement, after the engine's own."""

    def __init__(self, database: Database) -> None:
        self._writing = database.write()
        self._transaction: Transaction | None = None

    def __getattr__(self, name: str) -> Any:
        if self._transaction is None:
            self._transaction = self._writing.__enter__()
        return getattr(self._transaction, name)

    def close(self) -> None:
        if self._transaction is not None:
            self._writing.__exit__(None, None, None)


@pytest.fixture
def transaction(engine: Engine) -> Iterator[Any]:
    made = _Later(engine.database)
    yield made
    made.close()


@pytest.mark.parametrize("query", CASES, ids=lambda query: query.__name__)
def test_a_named_query(engine: Engine, transaction: Transaction, query: type[Query[Any]]) -> None:
    CASES[query](engine, transaction)


def test_every_named_query_is_here_and_has_a_statement_for_each_database() -> None:
    assert declared() == set(CASES)
    assert declared() <= set(WRITERS)
    assert declared() <= set(RUNNERS)
    assert all(query.__doc__ for query in declared())


def test_no_module_outside_the_store_names_a_dialect() -> None:
    outside = [
        path
        for package in (orchestrator, workers)
        for path in Path(package.__path__[0]).rglob("*.py")
        if "orchestrator/store/" not in str(path)
    ]
    named = re.compile(r"dialect|@compiles", re.IGNORECASE)
    assert [path for path in outside if named.search(path.read_text())] == []
