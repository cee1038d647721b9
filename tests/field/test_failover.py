"""A primary that dies while a batch runs, its standby in its place, and back again."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from orchestrator.domain.errors import Unavailable
from orchestrator.store import copying, migrate
from orchestrator.store.database import Database
from tests.acceptance.conftest import Product
from tests.chaos.processes import until
from tests.rigs.postgres import Postgres, debian_postgres
from tests.rigs.proxy import Proxy

BATCH = 2000
NAME = "store"


class Cluster:
    """A primary with a standby that has whatever was committed, at one address."""

    def __init__(self) -> None:
        self._servers = [debian_postgres()]
        self._servers[0].start()
        self._servers[0].create_database(NAME)
        self.proxy = Proxy(self._servers[0].socket)
        self.add_standby()
        self.url = f"postgresql://postgres@127.0.0.1:{self.proxy.port}/{NAME}"

    @property
    def primary(self) -> Postgres:
        return self._servers[-2]

    @property
    def standby(self) -> Postgres:
        return self._servers[-1]

    def add_standby(self) -> None:
        primary, standby = self._servers[-1], debian_postgres()
        self._servers.append(standby)
        standby.start_as_standby_of(primary)
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        # From here on whatever is committed is there too, and so is all that was.
        written = primary.query("SELECT pg_current_wal_lsn()::text")
        keeps = f"SELECT sync_state = 'sync' AND flush_lsn >= '{written}' FROM pg_stat_replication"
        until(lambda: primary.query(keeps), "the standby keeps up")

    def lose_primary(self) -> None:
        """End the primary without a warning; the address leads to its standby."""
        self.primary.kill()
        self.proxy.point_to(self.standby.socket)

    def promote(self) -> None:
        self.standby.execute("ALTER SYSTEM RESET synchronous_standby_names")
        self.standby.execute("SELECT pg_reload_conf()")
        self.standby.promote()

    def stop(self) -> None:
        self.proxy.close()
        for server in self._servers:
            server.stop()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.stop()


@pytest.fixture
def product(cluster: Cluster, tmp_path: Path) -> Iterator[Product]:
    yield from _up(tmp_path, cluster.url)


def _up(directory: Path, url: str) -> Iterator[Product]:
    made = Product(directory, url)
    # So that a batch takes a while.
    made.config.write_text(
        made.config.read_text().replace('capacity = "1T"', 'capacity = "1T"\ndelay = 0.01')
    )
    made.start()
    yield made
    made.stop()


class Submitter:
    """Submits one job after the other, each until it is accepted."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._stopped = threading.Event()
        #: Statuses in the order of the answers.
        self.answers: list[int] = []
        self.accepted: list[str] = []
        self._thread = threading.Thread(target=self._run)

    @contextmanager
    def at_work(self) -> Iterator[Submitter]:
        self._thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            self._thread.join()

    def _run(self) -> None:
        with self._product.client() as http:
            for number in itertools.count():
                name = f"single{number}"
                while self._submit(http, name) != 202:
                    if self._stopped.wait(0.05):
                        return
                self.accepted.append(name)
                if self._stopped.wait(0.2):
                    return

    def _submit(self, http: httpx.Client, name: str) -> int:
        key = {"Idempotency-Key": name}
        answer = http.post("/v1/jobs", json=_create(name, "fast"), headers=key)
        self.answers.append(answer.status_code)
        return self.answers[-1]

    def wait_for(self, status: int) -> None:
        """Wait for another answer with this status."""
        before = len(self.answers)
        until(lambda: status in self.answers[before:], f"{status} after {self.answers[-5:]}")


def _create(volume: str, backend: str = "ram") -> dict[str, Any]:
    return {
        "action": "volume.create",
        "backend": backend,
        "volume": volume,
        "params": {"size_bytes": "1M"},
    }


def _ready(product: Product) -> tuple[int, str]:
    answer = httpx.get(f"{product.url}/readyz", timeout=60)
    return answer.status_code, answer.json()["database"]


@pytest.mark.timeout(600)
def test_a_batch_goes_on_over_a_fail_over_and_back(cluster: Cluster, product: Product) -> None:
    parts = product.children()
    with product.client() as http, Submitter(product).at_work() as submitter:
        requests = [_create(f"batch{number}") for number in range(BATCH)]
        batch = http.post("/v1/batches", json={"jobs": requests}).json()["id"]
        done = {"batch_id": batch, "state": "succeeded", "limit": 1}
        until(lambda: http.get("/v1/jobs", params=done).json()["items"], "it has begun")
        for again in (False, True):
            cluster.lose_primary()
            until(lambda: _ready(product)[0] == 503 and "takes no writes" in _ready(product)[1],
                  "readiness tells of the standby")  # fmt: skip
            submitter.wait_for(503)
            cluster.promote()
            submitter.wait_for(202)
            until(lambda: _ready(product) == (200, "ok"), "it is ready again")
            if not again:
                cluster.add_standby()
        _wait_for_end(http, batch)
    assert product.children() == parts
    assert set(submitter.answers) == {202, 503}
    with product.client() as http:
        wanted = {f"batch{number}" for number in range(BATCH)} | set(submitter.accepted)
        unfinished = {"state": "waiting,queued,running"}
        until(lambda: not http.get("/v1/jobs", params=unfinished).json()["items"], "all end")
        jobs = list(_pages(http, "/v1/jobs"))
        assert {job["state"] for job in jobs} == {"succeeded"}
        assert Counter(job["volume"] for job in jobs) == Counter(wanted)
        volumes = [
            volume
            for backend in ("ram", "fast")
            for volume in _pages(http, f"/v1/backends/{backend}/volumes")
        ]
        assert Counter(volume["name"] for volume in volumes) == Counter(wanted)
        wanted_ends = Counter(job["id"] for job in jobs)
        # Events are numbered a little later.
        until(lambda: _ends(http) >= wanted_ends, "every end is told")
        assert _ends(http) == wanted_ends
    for backend in ("ram", "fast"):
        audited = product.run("audit", "run", "--backend", backend, "--json")
        assert audited.returncode == 0, audited.stderr
    found = product.run("audit", "findings", "--json")
    assert '"items": []' in found.stdout, found.stdout


def _wait_for_end(http: httpx.Client, batch: int) -> None:
    """Wait for the batch to succeed, for as long as it gets on."""
    succeeded = -1
    while succeeded < BATCH:
        before = succeeded
        until(lambda: _succeeded(http, batch) > before, f"more than {before} succeed")  # noqa: B023
        succeeded = _succeeded(http, batch)


def _succeeded(http: httpx.Client, batch: int) -> int:
    found = http.get(f"/v1/batches/{batch}").json()
    assert (found["failed"], found["canceled"]) == (0, 0), found
    return int(found["succeeded"])


def _ends(http: httpx.Client) -> Counter[int]:
    """How often each job was told to have succeeded."""
    found: Counter[int] = Counter()
    number = 0
    while page := http.get("/v1/events", params={"after": number, "limit": 1000}).json()["items"]:
        number = page[-1]["number"]
        found.update(event["job_id"] for event in page if event["kind"] == "job.succeeded")
    return found


def _pages(http: httpx.Client, path: str) -> Iterator[dict[str, Any]]:
    cursor: dict[str, Any] = {}
    while True:
        page = http.get(path, params={"limit": 1000, **cursor}).json()
        yield from page["items"]
        if page["cursor"] is None:
            return
        cursor = {"cursor": page["cursor"]}


@pytest.mark.parametrize(
    ("on", "off"),
    [
        (
            "ALTER SYSTEM SET default_transaction_read_only = on",
            "ALTER SYSTEM RESET default_transaction_read_only",
        ),
        # Sessions that were begun meanwhile stay read-only for as long as they last.
        (
            f"ALTER DATABASE {NAME} SET default_transaction_read_only = on",
            f"ALTER DATABASE {NAME} RESET default_transaction_read_only",
        ),
    ],
    ids=["server", "database"],
)
@pytest.mark.timeout(300)
def test_a_database_that_was_made_read_only_is_used_again_once_it_is_not(
    cluster: Cluster, product: Product, on: str, off: str
) -> None:
    parts = product.children()
    primary = cluster.primary
    with product.client() as http, Submitter(product).at_work() as submitter:
        submitter.wait_for(202)
        primary.execute(on)
        _reload(primary, read_only="on")
        cluster.proxy.cut()
        submitter.wait_for(503)
        assert _ready(product)[0] == 503
        assert http.get("/v1/jobs").status_code == 200
        primary.execute(off)
        _reload(primary, read_only="off")
        submitter.wait_for(202)
        until(lambda: _ready(product) == (200, "ok"), "it is ready again")
    with product.client() as http:
        unfinished = {"state": "waiting,queued,running"}
        until(lambda: not http.get("/v1/jobs", params=unfinished).json()["items"], "all end")
        jobs = list(_pages(http, "/v1/jobs"))
        assert Counter(job["volume"] for job in jobs) == Counter(submitter.accepted)
    assert product.children() == parts


def _reload(server: Postgres, read_only: str) -> None:
    """Have the server read its settings, and wait until new sessions are as they say.

    It only takes note of the order when it is given; a session that is begun right after it may
    still be as the settings were, and a request that was cut off is answered by 503 either way.
    """
    server.execute("SELECT pg_reload_conf()")
    setting = "SHOW default_transaction_read_only"
    until(lambda: server.query(setting, NAME) == read_only, f"sessions are read-only: {read_only}")


def test_of_several_servers_the_one_that_takes_writes_is_used(cluster: Cluster) -> None:
    other = Proxy(cluster.standby.socket)
    url = f"postgresql://postgres@127.0.0.1:{other.port},127.0.0.1:{cluster.proxy.port}/{NAME}"
    migrate.upgrade(url)
    database = Database(url)
    database.try_to_write()
    until(lambda: _has_schema(cluster.standby), "the standby has it too")
    cluster.primary.kill()
    with pytest.raises(Unavailable):
        database.try_to_write()
    cluster.promote()
    until(lambda: _is_written(database), "the other one is used")
    database.close()
    other.close()


def _has_schema(server: Postgres) -> bool:
    return migrate.check(server.url(NAME)) is None


def _is_written(database: Database) -> bool:
    try:
        database.try_to_write()
    except Unavailable:
        return False
    return True


def test_a_standby_is_read_for_a_backup_and_nothing_else(cluster: Cluster, tmp_path: Path) -> None:
    migrate.upgrade(cluster.primary.url(NAME))
    url = cluster.standby.url(NAME)
    until(lambda: _has_schema(cluster.standby), "the standby has it too")
    database = Database(url)
    with pytest.raises(Unavailable, match="takes no writes"):
        database.look(lambda connection: connection.execute(text("SELECT 1")))
    database.close()
    with pytest.raises(Unavailable, match="takes no writes"):
        migrate.upgrade(url)
    copying.save(url, tmp_path / "backup.db")
    assert migrate.check(f"sqlite:///{tmp_path / 'backup.db'}") is None
