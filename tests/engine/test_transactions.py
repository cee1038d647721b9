"""Transactions: what is deferred, and where failpoints are passed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from orchestrator import failpoints
from orchestrator.domain.errors import Unavailable
from orchestrator.store import urls
from orchestrator.store.asking import Question
from orchestrator.store.database import Database
from orchestrator.store.transaction import Transaction
from tests.chaos.processes import until

_MORE = Question(text("UPDATE counted SET value = value + 1"))
_READ = Question(text("SELECT value FROM counted"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    with made.write() as transaction:
        transaction.execute(text("CREATE TABLE counted (value INTEGER NOT NULL)"))
        transaction.execute(text("INSERT INTO counted VALUES (0)"))
    yield made
    made.close()


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], None]]:
    """What happens at failpoints, by name; failpoints are armed meanwhile."""
    happens: dict[str, Callable[[], None]] = {}

    def come_by(_directory: Path, point: str, _raw: Any, _facts: Any) -> None:
        happens.get(point, lambda: None)()

    monkeypatch.setattr(failpoints, "_directory", Path("/in/this/process"))
    monkeypatch.setattr(failpoints, "_pass", come_by)
    return happens


def _value(database: Database) -> int:
    with database.read() as transaction:
        return int(transaction.execute(text("SELECT value FROM counted")).scalar_one())


def _is_locked(database: Database) -> bool:
    """Whether somebody holds the row, or SQLite's one write lock."""
    if (file := urls.file_of(database.url)) is not None:
        with closing(sqlite3.connect(file, timeout=0)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
        return False
    free = text("SELECT value FROM counted FOR UPDATE SKIP LOCKED")
    with database.write() as transaction:
        return transaction.execute(free).first() is None


@pytest.mark.parametrize("deferred", [True, False])
def test_a_point_is_passed_between_the_last_statement_and_the_commit(
    database: Database, met: dict[str, Callable[[], None]], deferred: bool
) -> None:
    passes: list[int] = []

    def look() -> None:
        until(lambda: _is_locked(database), "the last statement is executed")
        passes.append(_value(database))

    def work(transaction: Transaction) -> None:
        transaction.reach("finish.before_commit")
        if deferred:
            transaction.defer(_MORE())
        else:
            transaction.execute(_MORE.statement)

    met["finish.before_commit"] = look
    database.transact(work)
    assert passes == [0], "the row was changed, and nobody else saw it"
    assert _value(database) == 1


def test_a_point_among_statements_is_passed_in_its_place(
    database: Database, met: dict[str, Callable[[], None]]
) -> None:
    order: list[str] = []
    for name in ("lanes.before_release", "finish.before_commit"):
        met[name] = lambda name=name: order.append(name)  # type: ignore[misc]

    def work(transaction: Transaction) -> int:
        transaction.reach("finish.before_commit")
        point = transaction.point("lanes.before_release")
        _, nothing, read = transaction.ask(_MORE(), point, _READ())
        assert (list(nothing), order) == ([], ["lanes.before_release"])
        return int(read[0]["value"])

    assert database.transact(work) == 1
    assert order == ["lanes.before_release", "finish.before_commit"]


def test_a_point_that_raises_undoes_all_that_was_done(
    database: Database, met: dict[str, Callable[[], None]]
) -> None:
    def fail() -> None:
        raise failpoints.FailpointError

    def work(transaction: Transaction) -> None:
        transaction.ask(_MORE())
        transaction.defer(_MORE())
        transaction.reach("finish.before_commit")

    met["finish.before_commit"] = fail
    with pytest.raises(failpoints.FailpointError):
        database.transact(work)
    assert _value(database) == 0
    del met["finish.before_commit"]
    database.transact(work)
    assert _value(database) == 2


def test_what_was_deferred_comes_before_what_is_asked_next(database: Database) -> None:
    def work(transaction: Transaction) -> int:
        transaction.defer(_MORE(), _MORE())
        [read] = transaction.ask(_READ())
        return int(read[0]["value"])

    assert database.transact(work) == 2
    assert _value(database) == 2


def test_nothing_that_was_deferred_outlives_a_transaction_that_failed(database: Database) -> None:
    def fail(transaction: Transaction) -> None:
        transaction.defer(_MORE())
        raise Unavailable("elsewhere")

    with pytest.raises(Unavailable):
        database.transact(fail)
    database.transact(lambda transaction: transaction.ask(_READ()))
    assert _value(database) == 0
