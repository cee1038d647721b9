"""PostgreSQL as Debian installs it, directly and through pgbouncer in transaction mode."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from orchestrator.domain.errors import Unavailable
from orchestrator.store import migrate
from orchestrator.store.database import Database
from orchestrator.store.transaction import Transaction
from tests.acceptance.conftest import Product
from tests.chaos.processes import until
from tests.rigs.pgbouncer import PgBouncer
from tests.rigs.postgres import Postgres

Server = Postgres | PgBouncer

CLIENTS, EACH = 4, 50

#: What somebody may have set for a database, its roles or the whole server.
_ODD_DEFAULTS = {
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "Asia/Kolkata",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "900ms",
    "lock_timeout": "900ms",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
}


@pytest.fixture
def database(server: Server, migrated: str) -> Iterator[Database]:
    made = Database(server.url(migrated))
    yield made
    made.close()


def _shown(*names: str) -> Callable[[Transaction], dict[str, str]]:
    def show(transaction: Transaction) -> dict[str, str]:
        return {name: transaction.execute(text(f"SHOW {name}")).scalar_one() for name in names}

    return show


def test_no_statement_of_ours_is_compiled(database: Database) -> None:
    # The price of what is switched off is what makes the server compile: 1e10 for each.
    dear = text("EXPLAIN (ANALYZE, FORMAT JSON) SELECT count(*) FROM without_index")
    with database.write() as transaction:
        transaction.execute(text("CREATE TABLE without_index AS SELECT 1"))
        [plan] = transaction.execute(dear).scalar_one()
    assert plan["Plan"]["Total Cost"] > 1e9
    assert "JIT" not in plan


@pytest.fixture
def odd(debian: Postgres, migrated: str) -> str:
    """A database whose defaults are not those of a new one."""
    for setting, value in _ODD_DEFAULTS.items():
        debian.execute(f"ALTER DATABASE {migrated} SET {setting} = '{value}'")
    return migrated


def test_defaults_of_a_database_change_nothing(
    server: Server, odd: str, bring_up: Callable[..., Product]
) -> None:
    product = bring_up(server.url(odd))
    with product.client() as http:
        made = _create(http, "vm1")
        assert made["state"] == "succeeded"
        assert made["created_at"].endswith("Z")
        hours = {made[at][:13] for at in ("created_at", "finished_at")}
        events = http.get("/v1/events", params={"after": 0}).json()["items"]
        assert {event["at"][:13] for event in events if event["job_id"]} <= hours
    database = Database(server.url(odd))
    shown = _shown("datestyle", "timezone", "transaction_isolation", "statement_timeout")
    assert database.transact(shown) == {
        "datestyle": "ISO, YMD",
        "timezone": "UTC",
        "transaction_isolation": "read committed",
        "statement_timeout": "0",
    }
    database.close()


def test_a_database_that_cannot_write_every_text_is_refused(debian: Postgres) -> None:
    debian.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(Unavailable, match=r"SQL_ASCII.*ENCODING 'UTF8'"):
            migrate.upgrade(debian.url("ascii"))
    finally:
        debian.drop_database("ascii")


def test_jobs_of_many_clients_through_a_pooler_end_as_they_were_asked_for(
    pgbouncer: PgBouncer, name: str, bring_up: Callable[..., Product]
) -> None:
    product = bring_up(pgbouncer.url(name))
    answers: Counter[int] = Counter()

    def submit(client: int) -> None:
        with product.client() as http:
            for number in range(EACH):
                size = client * EACH + number + 1
                body = _request(f"c{client}-{number}", size * 2**20)
                answers[http.post("/v1/jobs", json=body).status_code] += 1

    threads = [threading.Thread(target=submit, args=(client,)) for client in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {202: CLIENTS * EACH}
    with product.client() as http:
        unfinished = {"state": "waiting,queued,running"}
        until(lambda: not http.get("/v1/jobs", params=unfinished).json()["items"], "all end")
        jobs = http.get("/v1/jobs", params={"limit": 1000}).json()["items"]
        assert Counter((job["state"], job["attempt"]) for job in jobs) == {
            ("succeeded", 1): CLIENTS * EACH
        }
        volumes = http.get("/v1/backends/ram/volumes", params={"limit": 1000}).json()["items"]
        assert {volume["name"]: volume["size_bytes"] // 2**20 for volume in volumes} == {
            f"c{client}-{number}": client * EACH + number + 1
            for client in range(CLIENTS)
            for number in range(EACH)
        }


def test_nothing_of_ours_stays_in_a_session_that_is_lent(
    pgbouncer: PgBouncer, migrated: str
) -> None:
    url = pgbouncer.url(migrated)
    database = Database(url)
    for _ in range(20):  # often enough for the driver to prepare it
        database.look(_shown("enable_seqscan"))
        database.transact(_shown("enable_seqscan"))
        database.glance(_shown("jit"))
    with psycopg.connect(url.replace("+psycopg", ""), prepare_threshold=None) as other:
        names = ("jit", "enable_seqscan", "cpu_operator_cost", "statement_timeout")
        left = [other.execute(f"SHOW {name}").fetchone() for name in names]
        assert left == [("on",), ("on",), ("0.0025",), ("0",)]
        assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    database.close()


def test_a_straight_connection_keeps_what_it_has_prepared(debian: Postgres, migrated: str) -> None:
    database = Database(debian.url(migrated), pool_size=1)
    query = text("SELECT count(*) FROM pg_prepared_statements")
    for _ in range(20):
        prepared = database.look(lambda transaction: transaction.execute(query).scalar_one())
    assert prepared > 0
    database.close()


def test_a_pooler_that_is_not_noticed_can_be_told_of(debian: Postgres, migrated: str) -> None:
    database = Database(f"{debian.url(migrated)}&prepare_threshold=0", pool_size=1)
    query = text("SELECT count(*) FROM pg_prepared_statements")
    for _ in range(20):
        prepared = database.look(lambda transaction: transaction.execute(query).scalar_one())
    assert prepared == 0
    database.close()


def _request(volume: str, size_bytes: int = 2**20) -> dict[str, Any]:
    return {
        "action": "volume.create",
        "backend": "ram",
        "volume": volume,
        "params": {"size_bytes": size_bytes},
    }


def _create(http: Any, volume: str) -> dict[str, Any]:
    answer = http.post("/v1/jobs", json=_request(volume), headers={"Prefer": "wait=60"})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made
