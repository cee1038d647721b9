"""The views for people who write SQL, and the examples that docs/sql.md gives for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url, select, text

from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import InvalidInput, NotFound
from orchestrator.domain.states import Role
from orchestrator.inventory.capacity import record_day
from orchestrator.store import audit_views
from orchestrator.store.tables import backends, capacity_days, event_commits, events, jobs, volumes
from orchestrator.store.transaction import Transaction
from tests.engine.conftest import Engine, create
from tests.engine.lively import Lively, filled
from tests.rigs.sql_examples import examples
from workers.scheduler import Scheduler

Rows = list[Any]


def rows(transaction: Transaction, statement: str) -> Rows:
    """As whoever writes SQL gets them: values as the driver gives them."""
    return list(transaction.execute(text(statement)).mappings())


class Expected:
    """What each example must show, found out in another way."""

    def __init__(self, lively: Lively, transaction: Transaction) -> None:
        self.lively = lively
        self.jobs = list(transaction.execute(select(jobs)).mappings())
        self.events = list(
            transaction.execute(
                select(events, (event_commits.c.base + events.c.seq).label("number")).join(
                    event_commits, event_commits.c.id == events.c.commit_id
                )
            ).mappings()
        )
        self.volumes = list(transaction.execute(select(volumes)).mappings())
        self.live = [row for row in self.volumes if row["state"] != "removed"]

    def held_at(self, found: Rows) -> None:
        held = self.lively.held
        assert [(row["volume"], row["volume_id"], row["size_bytes"]) for row in found] == [
            (name, held[name]["id"], held[name]["size_bytes"]) for name in sorted(held)
        ]

    def sums_at(self, found: Rows) -> None:
        sizes: Counter[str] = Counter()
        for name, volume in self.lively.held.items():
            sizes["team" if name in ("vm1", "vm2") else "tests"] += volume["size_bytes"]
        assert {row["account"]: row["bytes"] for row in found} == sizes

    def history(self, found: Rows) -> None:
        changes = ["created", "grown", "owner", "policy", "team", "restricted", "available"]
        assert [row["version"] for row in found] == list(range(1, len(changes) + 1))
        assert [row["size_bytes"] for row in found] == [2**20, *[2**21] * 6]
        assert [row["policy"] for row in found] == [None, None, None, *["web"] * 4]
        assert [row["state"] for row in found[4:]] == ["available", "restricted", "available"]
        for earlier, later in pairwise(found):
            assert earlier["valid_to"] == later["valid_from"]
        assert found[-1]["valid_to"] is None

    def who_changed(self, found: Rows) -> None:
        wanted = sorted(
            (row for row in self.events if row["volume"] == "vm1" and row["kind"][:4] != "job."),
            key=lambda row: -row["number"],
        )
        assert [row["kind"] for row in found] == [row["kind"] for row in wanted]
        told = {row["kind"]: row["what"] for row in found}
        assert told["volume.grow"] == "grew volume vm1"
        assert told["lock.broken"] == "lock broken of broken-one"
        [grown] = [row for row in found if row["kind"] == "volume.grow"]
        assert (grown["actor"], grown["reason"]) == ("tests", "full")

    def removals(self, found: Rows) -> None:
        assert [(row["kind"], row["volume"], row["reason"]) for row in found] == [
            ("volume.remove", "gone", "with its lock"),
            ("volume.forget", "moved", "taken away"),
            ("volume.remove", "vm2", "customer left"),
            ("snapshot.delete", "vm2", "old"),
            ("volume.purge", "vm6", "over"),
        ]

    def failures(self, found: Rows) -> None:
        failed = [row for row in self.jobs if row["state"] == "failed"]
        causes = Counter((row["action"], row["error"]["code"]) for row in failed)
        assert {(row["action"], row["error_code"]): row["jobs"] for row in found} == causes

    def latest_failures(self, found: Rows) -> None:
        unsuccessful = [row for row in self.jobs if row["state"] in ("failed", "canceled")]
        assert [(row["job_id"], row["error_code"], row["error_detail"]) for row in found] == [
            (row["id"], row["error"]["code"], row["error"]["detail"])
            for row in sorted(unsuccessful, key=lambda row: -row["id"])
        ]

    def longest(self, found: Rows) -> None:
        lasted = {
            row["id"]: (row["finished_at"] - row["started_at"]).total_seconds()
            for row in self.jobs
            if row["started_at"] and row["finished_at"]
        }
        waited = {row["id"]: (row["started_at"] - row["created_at"]) for row in self.jobs}
        assert [row["job_id"] for row in found] == sorted(
            lasted, key=lambda id_: (-lasted[id_], id_)
        )
        for row in found:
            assert row["duration_seconds"] == pytest.approx(lasted[row["job_id"]], abs=1e-6)
            seconds = waited[row["job_id"]].total_seconds()
            assert row["waited_seconds"] == pytest.approx(seconds, abs=1e-6)

    def holders(self, found: Rows) -> None:
        assert [(row["volume"], row["owner"], row["taken_by"]) for row in found] == [
            ("vm1", "held-one", "backup")
        ]
        assert found[0]["expires_at"] is not None

    def breakers(self, found: Rows) -> None:
        assert [(row["owner"], row["ended_by"], row["end_reason"]) for row in found] == [
            ("broken-one", "tests", "host is dead")
        ]

    def growth(self, found: Rows) -> None:
        days = [str(row["day"]) for row in found]
        assert days[:2] == ["2026-09-30", "2026-10-31"]
        assert days[2:] == [str(self.lively.now().date())]
        assert found[-1]["volumes"] == len(self.live)
        assert found[-1]["volume_bytes"] == sum(row["size_bytes"] for row in self.live)

    def of_account(self, found: Rows) -> None:
        assert [row["volume"] for row in found] == ["vm1", "vm1", "vm1", "vm2"]
        assert [row["valid_to"] is None for row in found] == [False, False, True, False]

    def of_token(self, found: Rows) -> None:
        assert [(row["action"], row["volume"]) for row in found] == [
            ("snapshot.create", "vm4"),
            ("snapshot.create", "vm2"),
        ]

    def without_snapshot(self, found: Rows) -> None:
        assert [row["volume"] for row in found] == sorted(
            row["name"] for row in self.live if row["name"] not in ("vm2", "vm4")
        )


EXAMPLES: dict[str, Callable[[Expected, Rows], None]] = {
    "What did a backend hold at a time": Expected.held_at,
    "How much was it in all": Expected.sums_at,
    "The history of one volume": Expected.history,
    "Who did what to one volume": Expected.who_changed,
    "Who removed what in a month, and why": Expected.removals,
    "Which jobs failed most, and why": Expected.failures,
    "The latest failures": Expected.latest_failures,
    "The longest jobs": Expected.longest,
    "Who holds locks": Expected.holders,
    "Who broke a lock": Expected.breakers,
    "How a backend grew by month": Expected.growth,
    "What an account holds, and what it held": Expected.of_account,
    "What one token asked for": Expected.of_token,
    "Volumes of which there never was a snapshot": Expected.without_snapshot,
}


def test_each_example_of_the_documentation_shows_what_happened(engine: Engine) -> None:
    lively = Lively(engine)
    statements = examples(filled(lively))
    assert list(statements) == list(EXAMPLES)
    with engine.database.read() as transaction:
        expected = Expected(lively, transaction)
        for title, statement in statements.items():
            found = rows(transaction, statement)
            assert found, title
            EXAMPLES[title](expected, found)
        locks = rows(transaction, "SELECT * FROM audit_locks ORDER BY taken_at, owner")
        ends = {row["owner"]: (row["ended"], row["ended_by"], row["end_reason"]) for row in locks}
        assert len(locks) == len(ends)
        assert ends == {
            "released-one": ("released", "tests", "done"),
            "broken-one": ("broken", "tests", "host is dead"),
            "expired-one": ("expired", "orchestrator", None),
            "overtaken-one": ("expired", "orchestrator", None),
            "held-one": ("held", None, None),
            "removed-one": ("removed", "tests", "with its lock"),
        }
        assert all((row["released_at"] is None) == (row["ended"] == "held") for row in locks)
        expired = [row for row in expected.events if row["kind"] == "lock.expired"]
        owners = [row["data"]["before"]["owner"] for row in expired]
        assert owners == ["expired-one", "overtaken-one"]
        who = rows(transaction, "SELECT * FROM audit_who ORDER BY number")
        assert [row["number"] for row in who] == list(range(1, len(expected.events) + 1))
        assert all(row["what"] for row in who)


def test_locks_are_told_where_their_events_are_gone(engine: Engine) -> None:
    """Taken before the events that are kept, or ended by a hand."""
    lively = Lively(engine)
    with engine.database.write() as transaction:
        transaction.execute(text("DELETE FROM events WHERE kind = 'lock.taken' AND volume = 'vm1'"))
    lively.lock("vm4", "struck")
    with engine.database.write() as transaction:
        transaction.execute(text("DELETE FROM locks WHERE owner = 'struck'"))
    with engine.database.read() as transaction:
        found = rows(transaction, "SELECT owner, ended FROM audit_locks")
    ended = {row["owner"]: row["ended"] for row in found}
    assert ended == {"held-one": "held", "removed-one": "removed", "struck": "unknown"}


# -- who may read ---------------------------------------------------------------------------


@pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
def test_a_role_for_audits_reads_the_views_and_nothing_else(engine: Engine) -> None:
    Lively(engine)
    role = 'auditor "with quotes"'
    name = sql.Identifier(role)
    url = engine.database.url.replace("postgresql+psycopg:", "postgresql:")
    with psycopg.connect(url, autocommit=True) as owner:
        owner.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))
        owner.execute(sql.SQL("CREATE ROLE {} LOGIN").format(name))
        try:
            engine.database.transact(lambda transaction: audit_views.grant(transaction, role))
            with psycopg.connect(url, user=role, autocommit=True) as auditor:
                for view in audit_views.VIEWS:
                    read = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(view))
                    assert auditor.execute(read).fetchone() != (0,), view
                tables = owner.execute(
                    "SELECT relname FROM pg_class WHERE relkind = 'r'"
                    " AND relnamespace = 'public'::regnamespace"
                ).fetchall()
                assert {"tokens", "jobs", "events", "volumes"} <= {table for (table,) in tables}
                for (table,) in tables:
                    read = sql.SQL("SELECT FROM {}").format(sql.Identifier(table))
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        auditor.execute(read)
                for change in (
                    "DELETE FROM audit_capacity_daily",
                    "UPDATE audit_jobs SET reason = 'x'",
                    "CREATE TABLE mine (n int)",
                    "SELECT nextval('jobs_numbers')",
                ):
                    with pytest.raises(psycopg.Error):
                        auditor.execute(change)
        finally:
            owner.execute(sql.SQL("DROP OWNED BY {}").format(name))
            owner.execute(sql.SQL("DROP ROLE {}").format(name))


def test_a_role_that_is_not_there_is_refused_with_the_remedy(engine: Engine) -> None:
    on_sqlite = make_url(engine.database.url).get_backend_name() == "sqlite"
    with pytest.raises(InvalidInput if on_sqlite else NotFound) as refused:
        engine.database.transact(lambda transaction: audit_views.grant(transaction, "nobody; DROP"))
    assert refused.value.field == "role"
    assert ("read-only" if on_sqlite else "CREATE ROLE") in refused.value.detail


# -- capacity by days -----------------------------------------------------------------------


def test_the_last_look_of_a_day_holds_whichever_scheduler_has_it(engine: Engine) -> None:
    schedulers = [Scheduler(engine.settings), Scheduler(engine.settings)]
    try:
        for scheduler, volume in zip(schedulers, ("a", "b"), strict=True):
            engine.submit(create(volume, "1M"))
            engine.work()
            scheduler.tick()
        with engine.database.read() as transaction:
            found = {
                row["name"]: row
                for row in transaction.execute(
                    select(capacity_days, backends.c.name).join(
                        backends, backends.c.id == capacity_days.c.backend_id
                    )
                ).mappings()
            }
        assert set(found) == {"ram", "fast"}
        ram = found["ram"]
        assert (ram["volumes"], ram["volume_bytes"], ram["promised_bytes"]) == (2, 2**21, 2**21)
        assert ram["total_bytes"] == 2**40
        assert ram["day"] == ram["at"].date()
        assert found["fast"]["volumes"] == 0
    finally:
        for scheduler in schedulers:
            scheduler.close()


def test_an_earlier_look_does_not_replace_a_later_one(engine: Engine) -> None:
    """Of two schedulers, the one that looked first may commit last."""
    engine.database.transact(record_day)
    with engine.database.write() as transaction:
        later = "2999-01-01" if engine.database.is_postgresql else "2999-01-01 00:00:00.000000"
        transaction.execute(text("UPDATE capacity_days SET at = :later"), {"later": later})
    engine.submit(create("a"), actor=Actor("tests", Role.ADMIN))
    engine.work()
    engine.database.transact(record_day)
    with engine.database.read() as transaction:
        assert set(transaction.execute(select(capacity_days.c.volumes)).scalars()) == {0}
