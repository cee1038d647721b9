"""The statements of the hot paths use their indexes, whatever the past has left behind."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text, update

from benchmarks import past
from orchestrator.domain.queues import CONTROL_QUEUE, GROUP_BUDGET
from orchestrator.domain.states import JobState
from orchestrator.history.events import number_committed, read_after, read_newest
from orchestrator.inventory import usage
from orchestrator.inventory.backends import backend_views
from orchestrator.jobs import autosize, loading, turns, upkeep, views
from orchestrator.jobs.claim import MOST_CLAIMED, put_back_blocked
from orchestrator.jobs.lanes import heads_of
from orchestrator.resources.policy import loading as policy_loading
from orchestrator.resources.volume import loading as volume_loading
from orchestrator.resources.volume.views import list_volumes
from orchestrator.settings import Settings
from orchestrator.store.asking import Asked
from orchestrator.store.database import Database
from orchestrator.store.postgresql.statements import written
from orchestrator.store.queries.claiming import ClaimJobs, NextJobs, QueuesWithJobs, VolumesClaimed
from orchestrator.store.queries.finishing import (
    Dependents,
    HoldJobs,
    OthersInLanes,
    ReleaseLanes,
)
from orchestrator.store.queries.loading import VolumesRecorded
from orchestrator.store.tables import installation
from orchestrator.store.transaction import Transaction
from tests.engine.conftest import Engine, create
from tests.engine.reading import leave_unanalyzed, rows_read
from tests.rigs.postgres import Postgres
from workers import hints

#: Jobs of the past: enough for the planner to see that a table is large.
PAST = 20_000
#: Tables that grow with history. To read one of them from end to end takes ever longer.
LARGE = {"jobs", "events", "event_commits", "volumes", "job_steps", "job_attempts"}


@pytest.fixture(scope="module")
def url(postgres_server: Postgres, migrated_postgres: str) -> Iterator[str]:
    """Where a table is read from end to end only if there is no index to be used instead.

    The tables are large enough for the planner to think of indexes, and small enough that it
    would do without some of them.
    """
    postgres_server.create_database("plans", template=migrated_postgres)
    yield f"{postgres_server.url('plans')}&options=-c%20enable_seqscan%3Doff"
    postgres_server.drop_database("plans")


@pytest.fixture(scope="module")
def engine(
    url: str, tmp_path_factory: pytest.TempPathFactory, broker_server: Any
) -> Iterator[Engine]:
    """An engine with a past, and a little unfinished work."""
    settings = Settings(
        data=tmp_path_factory.mktemp("plans"),
        host="here",
        database={"url": url},
        broker={"url": broker_server.url},
        backends={"ram": {"driver": "memory", "capacity": "1P"}},
    )
    first = Engine(settings, Database(url))
    first.close()
    past.write(url.partition("&options")[0], PAST)
    made = Engine(settings, Database(url))
    made.submit(*(create(f"new{number}") for number in range(50)))
    with made.database.write() as transaction:
        transaction.execute(text("ANALYZE"))
    yield made
    made.close()


def _plan(transaction: Transaction, statement: str | bytes, values: Any) -> Any:
    if isinstance(statement, bytes):
        statement = statement.decode()
    found = transaction.connection.exec_driver_sql(
        f"EXPLAIN (FORMAT JSON) {statement}", values
    ).scalar()
    return found if isinstance(found, list) else json.loads(str(found))


def _explained(transaction: Transaction) -> list[Any]:
    """The plans of all statements that are executed in this transaction from now on."""
    plans: list[Any] = []

    @event.listens_for(transaction.connection, "before_cursor_execute", named=True)
    def explain(**asked: Any) -> None:
        if not asked["statement"].startswith("EXPLAIN"):
            plans.append(_plan(transaction, asked["statement"], asked["parameters"]))

    return plans


def _nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """The nodes of a plan, however deep."""
    if isinstance(plan, list):
        for part in plan:
            yield from _nodes(part)
    elif isinstance(plan, dict):
        yield plan
        yield from _nodes(list(plan.values()))


def _scanned(plan: Any) -> set[str]:
    """The tables that a plan reads from end to end."""
    return {node["Relation Name"] for node in _nodes(plan) if node.get("Node Type") == "Seq Scan"}


def _walked(plan: Any) -> set[str]:
    """The tables and the indexes that a plan reads from end to end."""
    return _scanned(plan) | {
        node["Index Name"]
        for node in _nodes(plan)
        if "Index Name" in node and "Index Cond" not in node
    }


QUESTIONS: dict[str, Asked[Any]] = {
    "queues with jobs": QueuesWithJobs(["backend.ram", "control"]),
    "next jobs": NextJobs(
        queue="backend.ram",
        control=CONTROL_QUEUE,
        backends=[1],
        most=MOST_CLAIMED,
        budget=GROUP_BUDGET,
        slow=True,
    ),
    "claim": ClaimJobs(
        ids=[1],
        worker="w",
        queue="backend.ram",
        control=CONTROL_QUEUE,
        most=MOST_CLAIMED,
        budget=GROUP_BUDGET,
        lease=30.0,
        slow=True,
        backends=[1],
    ),
    "backends": loading.backends_named(["ram"]),
    "the turn that a queue is at": turns._HEAD(queue="backend.ram"),
    "jobs in a lane": loading.jobs_in(["ram/new1"]),
    "volumes by name": volume_loading.volumes_at([("ram", "new1")]),
    "snapshots of volumes": volume_loading._SNAPSHOTS(ids=["1" * 32]),
    "attachments of volumes": volume_loading._ATTACHMENTS(ids=["1" * 32]),
    "locks of volumes": volume_loading._LOCKS(ids=["1" * 32]),
    "volumes as recorded": VolumesRecorded(backend_id=1, after="new1", most=100),
    "volumes with a policy": policy_loading._USERS(ids=[1]),
    "volumes of claimed jobs": VolumesClaimed([1], MOST_CLAIMED),
    "heads of lanes": heads_of(["ram/new1"]),
    "held by a worker": HoldJobs([1]),
    "others in a lane": OthersInLanes(["ram/new1"], [1]),
    "dependents": Dependents([1]),
    "lanes of ended jobs": ReleaseLanes([1]),
    "jobs to be told": views._JOBS(ids=[1]),
    "their journals": views._STEPS(ids=[1]),
    "their attempts": views._ATTEMPTS(ids=[1]),
    "quotas of accounts": usage.locked_quotas(["tests"], [1]),
    "what an account uses": usage._USAGES(accounts=["tests"]),
}


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_hot_statement_reads_no_table_from_end_to_end(
    engine: Engine, name: str, plans: str
) -> None:
    with engine.database.write() as transaction:
        # One that is made for all values is what a statement gets that is asked often.
        transaction.execute(text(f"SET LOCAL plan_cache_mode = {plans}"))
        statement, values = written(QUESTIONS[name], transaction.connection.dialect)
        assert not _scanned(_plan(transaction, statement, values)) & LARGE


@pytest.mark.parametrize(
    "filters",
    [{}, {"job_id": 7}, {"backend": "ram", "volume": "new1"}, {"kind": "backend.drain"}],
    ids=["all", "job", "volume", "rare kind"],
)
def test_a_page_of_events_is_found_by_index(engine: Engine, filters: dict[str, Any]) -> None:
    with engine.database.read() as transaction:
        plans = _explained(transaction)
        read_after(transaction, PAST, 100, filters)
        read_newest(transaction, 100, filters)
    assert not _scanned(plans) & LARGE


def test_what_an_account_was_promised_is_read_from_unfinished_jobs(engine: Engine) -> None:
    with engine.database.write() as transaction:
        transaction.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
        plan = _plan(
            transaction, *written(usage._USAGES(accounts=["tests"]), transaction.connection.dialect)
        )
    read = [node for node in _nodes(plan) if node.get("Relation Name") == "jobs"]
    assert [node["Index Name"] for node in read] == ["ix_jobs_unfinished"]


LISTS: dict[str, tuple[Sequence[JobState], dict[str, Any]]] = {
    "ix_jobs_unfinished": ([JobState.WAITING, JobState.QUEUED, JobState.RUNNING], {}),
    "ix_jobs_unsuccessful": ([JobState.FAILED], {}),
    "ix_jobs_submitted_by": ([], {"submitted_by": "nobody"}),
    "ix_jobs_action": ([], {"action": "volume.clone"}),
    "ix_jobs_host": ([], {"host": "nowhere"}),
    "ix_jobs_snapshot": ([], {"snapshot": "none"}),
    "pk_jobs": ([], {}),
}


@pytest.mark.parametrize("index", LISTS)
def test_a_list_of_jobs_has_its_index(engine: Engine, index: str) -> None:
    states, filters = LISTS[index]
    with engine.database.read() as transaction:
        statement = views.listing(states, None, filters, None).limit(100)
        compiled = statement.compile(
            dialect=transaction.connection.dialect, compile_kwargs={"render_postcompile": True}
        )
        plan = json.dumps(_plan(transaction, str(compiled), compiled.params))
    assert f'"Index Name": "{index}"' in plan


@pytest.mark.parametrize(
    "step",
    [
        lambda transaction: views.ended_lately(transaction, 30),
        lambda transaction: views.list_batches(transaction, before=None, limit=50),
        lambda transaction: views.failures_of_batch(transaction, 1),
        lambda transaction: read_newest(transaction, 50, {}, before=PAST),
    ],
    ids=["ended lately", "batches", "failures of a batch", "older events"],
)
def test_what_the_console_reads_beside_lists_is_found_by_index(
    engine: Engine, step: Callable[[Transaction], Any]
) -> None:
    with engine.database.write() as transaction:
        plans = _explained(transaction)
        step(transaction)
    assert plans
    assert not _scanned(plans) & LARGE


@pytest.mark.parametrize(
    "step",
    [upkeep.queue_due, upkeep.reclaim_expired, upkeep.queue_overlooked, number_committed],
)
def test_what_the_scheduler_does_reads_no_table_from_end_to_end(
    engine: Engine, step: Callable[[Transaction], Any]
) -> None:
    with engine.database.write() as transaction:
        plans = _explained(transaction)
        step(transaction)
    assert plans
    assert not _scanned(plans) & LARGE


@pytest.mark.parametrize(
    "step",
    [
        lambda transaction: autosize.refreshes(transaction, 300.0),
        lambda transaction: list(autosize.growths(transaction, 85.0)),
        lambda transaction: list(autosize.refused(transaction, 1, "ram")),
    ],
    ids=["backends", "volumes", "refusals"],
)
def test_autosize_walks_over_no_volume_that_does_not_grow_by_itself(
    engine: Engine, step: Callable[[Transaction], Any]
) -> None:
    with engine.database.write() as transaction:
        plans = _explained(transaction)
        step(transaction)
    assert plans
    assert _walked(plans) <= SMALL | {"uq_backends_name", "ix_volumes_autosize"}


#: Indexes of what is unfinished, or of few rows: to read one of them from end to end is no fault.
SMALL = {
    *("backends", "pk_backends", "installation", "pk_quotas"),
    "ix_jobs_unfinished",
    "ix_jobs_queued",
    "ix_jobs_leases",
    "ix_jobs_due",
    "ix_event_commits_unnumbered",
}


def _of_its_own(transaction: Transaction) -> None:
    """Make a copy of a database an installation of its own, whose tables nobody analyzes."""
    # Storage in RAM is its installation's, and copies of a database have that of the original.
    transaction.execute(update(installation).values(uuid=uuid.uuid4().hex))
    leave_unanalyzed(transaction)


@pytest.fixture(scope="module", params=["fresh", "emptied"])
def misjudged(
    request: pytest.FixtureRequest,
    postgres_server: Postgres,
    migrated_postgres: str,
    tmp_path_factory: pytest.TempPathFactory,
    broker_server: Any,
) -> Iterator[Engine]:
    """Much that was done and is to be done, where PostgreSQL has never looked at the tables, or
    when there was nothing in them."""
    name = f"misjudged_{request.param}"
    postgres_server.create_database(name, template=migrated_postgres)
    url = postgres_server.url(name)
    settings = Settings(
        data=tmp_path_factory.mktemp(name),
        host="here",
        database={"url": url},
        broker={"url": broker_server.url},
        backends={"ram": {"driver": "memory", "capacity": "1P"}},
    )
    database = Database(url)
    with database.write() as transaction:
        _of_its_own(transaction)
        if request.param == "emptied":
            transaction.execute(text("ANALYZE"))
    made = Engine(settings, database)
    made.submit(*(create(f"old{number}") for number in range(1000)))
    made.work()
    assert len(made.volumes()) == 1000
    made.submit(*(create(f"new{number}") for number in range(200)))
    yield made
    made.close()
    postgres_server.drop_database(name)


@pytest.mark.parametrize("plans", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_hot_statement_finds_each_row_by_index_without_statistics(
    misjudged: Engine, name: str, plans: str
) -> None:
    with misjudged.database.write() as transaction:
        transaction.execute(text(f"SET LOCAL plan_cache_mode = {plans}"))
        plan = _plan(transaction, *written(QUESTIONS[name], transaction.connection.dialect))
    assert _walked(plan) <= SMALL


@pytest.mark.parametrize(
    "step",
    [
        upkeep.queue_due,
        upkeep.queue_overlooked,
        upkeep.cancel_overlooked,
        upkeep.reclaim_expired,
        number_committed,
        put_back_blocked,
    ],
)
def test_what_the_scheduler_does_finds_each_job_by_index_without_statistics(
    misjudged: Engine, step: Callable[[Transaction], Any]
) -> None:
    with misjudged.database.write() as transaction:
        plans = _explained(transaction)
        step(transaction)
    assert plans
    assert _walked(plans) <= SMALL


@pytest.mark.parametrize("prefix", ["old1", "ol_"], ids=["of some", "of none"])
def test_volumes_are_found_by_the_beginning_of_their_names(misjudged: Engine, prefix: str) -> None:
    with misjudged.database.read() as transaction:
        plans = _explained(transaction)
        found = list_volumes(transaction, "ram", states=[], prefix=prefix, after=None, limit=1000)
    wanted = sorted(f"old{number}" for number in range(1000))
    assert [one["name"] for one in found] == [name for name in wanted if name.startswith(prefix)]
    conditions = [
        node["Index Cond"]
        for node in _nodes(plans)
        if node.get("Index Name") == "uq_volumes_live_name"
    ]
    assert conditions
    assert all("name" in one for one in conditions)


@pytest.mark.parametrize("name", [None, "ram"])
def test_volumes_are_counted_in_an_index(misjudged: Engine, name: str | None) -> None:
    with misjudged.database.read() as transaction:
        plans = _explained(transaction)
        [found] = backend_views(transaction, name)
    assert found["volumes"] >= 1000
    read = [node for node in _nodes(plans) if node.get("Relation Name") == "volumes"]
    assert [node["Node Type"] for node in read] == ["Index Only Scan"]


@pytest.fixture
def grown(
    postgres_server: Postgres, migrated_postgres: str, tmp_path: Path, broker_server: Any
) -> Iterator[Engine]:
    """An engine whose tables nobody analyzes, with nothing in them yet."""
    postgres_server.create_database("grown", template=migrated_postgres)
    database = Database(postgres_server.url("grown"))
    with database.write() as transaction:
        _of_its_own(transaction)
    settings = Settings(
        data=tmp_path,
        host="here",
        database={"url": postgres_server.url("grown")},
        broker={"url": broker_server.url},
        backends={"ram": {"driver": "memory", "capacity": "1P"}},
    )
    made = Engine(settings, database)
    yield made
    made.close()
    postgres_server.drop_database("grown")


@pytest.mark.parametrize("reported", [False, True], ids=["alone", "beside a long report"])
def test_a_job_reads_as_much_after_many_others_as_after_few(
    grown: Engine, monkeypatch: pytest.MonkeyPatch, reported: bool
) -> None:
    # Looked for by the clock, and not for each job.
    for module, name in itertools.product((hints, turns), ("_FRESH_SECONDS", "_OLD_SECONDS")):
        monkeypatch.setattr(module, name, 3600.0)
    numbers, places = itertools.count(), turns.Turns()

    def read_for(count: int) -> float:
        before = rows_read(grown.database)
        for _ in range(count):
            wanted = create(f"v{next(numbers)}")
            accepted = grown.submit(wanted, batch=False, turns=places)
            # As the wake-up would have it.
            [(queue, queued)] = accepted.wake.items()
            grown.worker.runner.wake(queue, queued.ids)
            assert grown.states(accepted.job_ids) == ["succeeded"]
        return (rows_read(grown.database) - before) / count

    with ExitStack() as report:
        read_for(50)
        if reported:
            # What it might still read cannot be cleaned up: the dead remain in every index.
            own = create_engine(grown.database.url, isolation_level="REPEATABLE READ")
            report.callback(own.dispose)
            report.enter_context(own.connect()).execute(text("SELECT count(*) FROM jobs"))
        few = read_for(50)
        read_for(600)
        many = read_for(50)
    assert many < 1.5 * few


def test_an_audit_reads_a_volume_that_is_as_recorded_once(grown: Engine) -> None:
    def audited(first: int, count: int) -> int:
        grown.submit(*(create(f"v{number:04}") for number in range(first, first + count)))
        grown.work()
        with grown.database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM"))
        for _ in range(2):  # the first time, PostgreSQL reads what its tables are, too
            before = rows_read(grown.database)
            [audit] = grown.submit({"action": "backend.audit", "backend": "ram"}).job_ids
            grown.work()
        read = rows_read(grown.database) - before
        assert grown.job(audit)["result"]["volumes_recorded"] == first + count
        return read

    few = audited(0, 100)
    # For the comparison, and for the sum of what is promised: in an index, and the row itself.
    assert audited(100, 300) - few <= 4 * 300 + 100
