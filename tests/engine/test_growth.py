"""What a page costs depends on the page, and not on how much there is besides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import func, select

from orchestrator.domain.states import EventKind, VolumeState
from orchestrator.findings import refusals
from orchestrator.history.events import read_after, read_newest
from orchestrator.inventory.backends import configure
from orchestrator.jobs import autosize
from orchestrator.resources.volume.views import list_volumes
from orchestrator.schedules import running
from orchestrator.schedules.timing import Schedule
from orchestrator.settings import BackendSettings
from orchestrator.store.bulk import Drawn, insert_rows
from orchestrator.store.database import Database
from orchestrator.store.tables import event_commits, events, job_lanes, jobs, volumes
from orchestrator.store.transaction import Transaction
from tests.engine.reading import leave_unanalyzed, read_for

#: How much there is at first, and how much is added: a page finds no more in the second.
FEW, MANY = 500, 5_000
#: A page.
PAGE = 20
NOW = datetime(2026, 1, 1, tzinfo=UTC)

Page = Callable[[Transaction], Any]


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    made = Database(migrated_url)
    if made.is_postgresql:
        made.transact(leave_unanalyzed)
    backends = {"ram": BackendSettings(driver="memory")}
    made.transact(lambda transaction: configure(transaction, backends))
    yield made
    made.close()


def write_history(transaction: Transaction, first: int, count: int) -> None:
    """Jobs as one commit each; of the first ones the schedule of a volume was changed, and
    of one in twenty the job failed."""
    kinds = [
        [
            "job.submitted",
            "job.started",
            "schedule.changed" if number < PAGE else "volume.grow",
            "job.succeeded" if number % 20 else "job.failed",
        ]
        for number in range(first, first + count)
    ]
    rows = [
        {
            "commit_id": commit,
            "seq": seq,
            "at": NOW,
            "kind": kind,
            "backend": "tape" if commit < 10 else "ram",
            "volume": f"v{commit % 50}",
            "job_id": commit,
            "actor": "tests",
        }
        for commit, of_commit in enumerate(kinds, first)
        for seq, kind in enumerate(of_commit, 1)
    ]
    insert_rows(
        transaction,
        event_commits,
        [{"id": commit, "events": 4, "base": 4 * commit} for commit in range(first, first + count)],
    )
    insert_rows(transaction, events, rows)


EVENTS: dict[str, dict[str, Any]] = {
    "of a kind that was long ago": {"kind": "schedule.changed"},
    "of a kind now and then": {"kind": "job.failed"},
    "of a kind that every job has": {"kind": "job.succeeded"},
    "of a volume": {"backend": "ram", "volume": "v7"},
    "of a backend": {"backend": "ram"},
    "of a backend that was long ago": {"backend": "tape"},
    "all": {},
}


@pytest.mark.parametrize("end", ["oldest", "middle", "newest"])
@pytest.mark.parametrize("wanted", EVENTS)
def test_a_page_of_events_reads_no_more_with_a_longer_history(
    database: Database, wanted: str, end: str
) -> None:
    pages: dict[str, Page] = {
        "oldest": lambda transaction: read_after(transaction, 0, PAGE, EVENTS[wanted]),
        "middle": lambda transaction: read_after(transaction, 2 * FEW, PAGE, EVENTS[wanted]),
        "newest": lambda transaction: read_newest(transaction, PAGE, EVENTS[wanted]),
    }
    database.transact(lambda transaction: write_history(transaction, 0, FEW))
    few = read_for(database, pages[end])
    database.transact(lambda transaction: write_history(transaction, FEW, MANY))
    many = read_for(database, pages[end])
    assert many < 1.5 * few + 50


def write_volumes(transaction: Transaction, first: int, count: int) -> None:
    """Volumes in the order of their names; of the first ones some are in other states."""
    unusual = {0: "error", 10: "restricted", 20: "pending"}
    numbers = range(first, first + count)
    rows = [
        {
            "id": f"{number:032x}",
            "backend_id": 1,
            "name": f"v{number:06}",
            "requested_bytes": 1,
            "size_bytes": 1,
            "state": unusual.get(number, "available"),
            "metadata": {},
            "autosize": True,
            "created_at": NOW,
            "changed_at": NOW,
        }
        for number in numbers
    ]
    insert_rows(transaction, volumes, rows)
    work = [
        {
            "id": number + 1,
            "action": "volume.create",
            "backend_id": 1,
            "volume": f"v{number:06}",
            "params": {},
            "state": "waiting",
            "queue": "backend.ram",
            "cost": 1,
            "max_attempts": 5,
            "submitted_by": "tests",
            "created_at": NOW,
        }
        for number in numbers
    ]
    insert_rows(transaction, jobs, work)
    lanes = [
        {"lane": f"ram/v{number:06}", "job_id": number + 1, "begun": number == 20}
        for number in numbers
    ]
    insert_rows(transaction, job_lanes, lanes)


@pytest.mark.parametrize("prefix", [None, "v"])
@pytest.mark.parametrize("after", [None, "u"])
@pytest.mark.parametrize(
    "states", ["error", "restricted,error", "pending", "pending,restricted,error", "removed"]
)
def test_a_page_of_volumes_in_rare_states_reads_no_more_with_more_volumes(
    database: Database, states: str, prefix: str | None, after: str | None
) -> None:
    wanted = [VolumeState(state) for state in states.split(",")]

    def page(transaction: Transaction) -> list[dict[str, Any]]:
        return list_volumes(
            transaction, "ram", states=wanted, prefix=prefix, after=after, limit=PAGE
        )

    database.transact(lambda transaction: write_volumes(transaction, 0, FEW))
    few = read_for(database, page)
    database.transact(lambda transaction: write_volumes(transaction, FEW, MANY))
    assert read_for(database, page) < 1.5 * few + 50
    found = [one["state"] for one in database.look(page)]
    assert found == [one for one in ("error", "restricted", "pending") if one in wanted]


@pytest.mark.parametrize("after", ["v0", "v0004"])
def test_a_page_of_volumes_by_prefix_reads_no_more_far_in(database: Database, after: str) -> None:
    def page(transaction: Transaction) -> list[dict[str, Any]]:
        return list_volumes(transaction, "ram", states=[], prefix="v0", after=after, limit=PAGE)

    database.transact(lambda transaction: write_volumes(transaction, 0, FEW))
    few = read_for(database, page)
    database.transact(lambda transaction: write_volumes(transaction, FEW, MANY))
    assert read_for(database, page) < 1.5 * few + 50
    assert (
        read_for(
            database,
            lambda transaction: list_volumes(
                transaction, "ram", states=[], prefix="v0", after=f"v00{MANY}", limit=PAGE
            ),
        )
        < 1.5 * few + 50
    )


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_schedule_reads_the_volumes_whose_names_begin_like_its_patterns(
    database: Database,
) -> None:
    schedule = Schedule(
        id=1,
        name="nightly",
        cron="0 2 * * *",
        action="snapshot.create",
        backend_id=1,
        backend="ram",
        volumes=["v00001?", "v000007", "w*"],
        params={},
        keep=None,
        next_at=NOW,
        last_due_at=None,
        last_result=None,
    )
    database.transact(lambda transaction: write_volumes(transaction, 0, FEW + MANY))
    found = list(running._fitting_volumes(database, schedule))
    assert read_for(database, lambda _: [*running._fitting_volumes(database, schedule)]) < FEW
    assert [one.name for one in found] == [
        "v000007",
        *(f"v0000{number}" for number in range(10, 20)),
    ]


def test_whether_volumes_grow_by_themselves_is_asked_of_one(database: Database) -> None:
    database.transact(lambda transaction: write_volumes(transaction, 0, FEW))
    ask: Page = lambda transaction: autosize.refreshes(transaction, 300.0)  # noqa: E731
    few = read_for(database, ask)
    database.transact(lambda transaction: write_volumes(transaction, FEW, MANY))
    assert read_for(database, ask) < 1.5 * few + 50


@pytest.mark.parametrize(
    "key", [("ram", "v3", None), ("ram", None, "p")], ids=["volume", "export policy"]
)
def test_a_refusal_is_compared_with_the_latest_ones_only(
    database: Database, key: tuple[str, str | None, str | None]
) -> None:
    def again(transaction: Transaction) -> None:
        refusals.note_look(transaction, key, "it may not")

    def known(transaction: Transaction) -> int:
        query = select(func.count()).where(events.c.kind == EventKind.LOOK_REFUSED)
        return int(transaction.execute(query).scalar_one())

    database.transact(lambda transaction: write_history(transaction, 1, FEW))
    with database.write() as transaction:
        transaction.ask(Drawn("commits", FEW + MANY + 1))
    database.transact(again)
    few = read_for(database, again)
    database.transact(lambda transaction: write_history(transaction, FEW + 1, MANY))
    assert read_for(database, again) < 1.5 * few + 50
    assert database.look(known) == 1
