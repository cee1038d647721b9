"""What clients of the whole product see at the same time can be put into one order."""

from __future__ import annotations

import itertools
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from orchestrator.store.database import Database
from orchestrator.store.tables import installation
from tests.acceptance.conftest import Product, free_port
from tests.model.linearizability import Operation, explain
from tests.rigs.postgres import Postgres
from workers.backends.memory.store import AFTER, BEFORE, Faults, place

MIB = 2**20
CLIENTS = 8
VOLUMES = ("a", "b", "c", "d")
#: Operations of each client, and after how many in all a worker is killed in mid-work.
OPERATIONS = 30
KILLED_AFTER = (60, 150)
#: A client that is this impatient seldom hears what became of its job.
IMPATIENT_SECONDS = 0.004


@pytest.fixture(params=["sqlite", "postgresql"])
def product(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Product]:
    """A product of this test's own."""
    server: Postgres | None = None
    name, url = f"clients_{free_port()}", None
    if request.param == "postgresql":
        server = request.getfixturevalue("postgres_server")
        server.create_database(name)
        url = server.url(name)
    made = Product(tmp_path, url)
    made.start()
    yield made
    made.stop()
    if server is not None:
        server.drop_database(name)


class Clients:
    """Clients that do as they like with few volumes, and note what they hear."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._guard = threading.Lock()
        #: Told after each operation.
        self.progress = threading.Condition(self._guard)
        self.count = 0
        self.heard: dict[str, list[Operation]] = defaultdict(list)

    def act(self, seed: int) -> None:
        """One client's life."""
        choose = random.Random(seed)  # the same wishes in each run, if not the same answers
        with self._product.client() as http:
            for _ in range(OPERATIONS):
                volume = choose.choice(VOLUMES)
                kind = choose.choices(["create", "grow", "remove", "read"], [3, 6, 2, 5])[0]
                size = choose.randint(1, 4) if kind == "create" else choose.randint(2, 60)
                how = choose.choices(["waits", "asks later", "is impatient"], [6, 5, 1])[0]
                self.note(volume, self._do(http, volume, kind, size, how))

    def note(self, volume: str, operation: Operation) -> None:
        with self.progress:
            self.heard[volume].append(operation)
            self.count += 1
            self.progress.notify_all()

    def _do(self, http: httpx.Client, volume: str, kind: str, size: int, how: str) -> Operation:
        begin = time.monotonic()
        if kind == "read":
            return self.read(http, volume)
        body = {"action": f"volume.{kind}", "backend": "ram", "volume": volume}
        params = {} if kind == "remove" else {"params": {"size_bytes": size * MIB}}
        headers = {"Prefer": "wait=80"} if how == "waits" else {}
        timeout = IMPATIENT_SECONDS if how == "is impatient" else 90.0
        try:
            answer = http.post("/v1/jobs", json=body | params, headers=headers, timeout=timeout)
        except httpx.TimeoutException:
            return Operation(kind, size, begin, time.monotonic(), "unknown")
        accepted = time.monotonic()
        job = answer.json()
        if answer.status_code not in (200, 202):
            return Operation(kind, size, begin, accepted, job["code"])
        while job["state"] not in ("succeeded", "failed", "canceled"):
            job = http.get(f"/v1/jobs/{job['id']}/wait", params={"timeout": 80}).json()
        ended = job["error"]["code"] if job["error"] else job["state"]
        end = time.monotonic()
        return Operation(kind, size, begin, end, "accepted", accepted, job["id"], ended)

    def read(self, http: httpx.Client, volume: str) -> Operation:
        """Read a volume."""
        begin = time.monotonic()
        answer = http.get(f"/v1/backends/ram/volumes/{volume}")
        end = time.monotonic()
        if answer.status_code == 404:
            return Operation("read", 0, begin, end, "absent")
        told = answer.json()
        heard = "pending" if told["state"] == "pending" else "there"
        return Operation("read", told["size_bytes"] // MIB, begin, end, heard)


def _kill_in_mid_work(product: Product, clients: Clients) -> None:
    """Now and then every worker is killed, while one of them is changing a volume."""
    database = Database(product.database_url, pool_size=1)
    with database.read() as connection:
        uuid = connection.execute(select(installation.c.uuid)).scalar_one()
    database.close()
    faults = Faults("ram", uuid)
    for count, when in zip(KILLED_AFTER, (BEFORE, AFTER), strict=True):
        with clients.progress:
            clients.progress.wait_for(lambda count=count: clients.count >= count)  # type: ignore[misc]
        for operation in ("create", "grow", "remove"):
            faults.set(operation=operation, kind="hang", when=when, times=1, seconds=600.0)
        _until_one_happens(uuid)
        for pid in product.children()["worker"]:
            os.kill(pid, signal.SIGKILL)
        faults.clear()


def _until_one_happens(uuid: str) -> None:
    until = time.monotonic() + 100
    with closing(sqlite3.connect(place("ram", uuid))) as storage:
        for look in itertools.count():
            if storage.execute("SELECT 1 FROM faults WHERE times = 0").fetchone():
                return
            assert time.monotonic() < until, f"no worker came to the fault in {look} looks"
            time.sleep(0.01)


@pytest.mark.slow
def test_what_clients_see_while_workers_are_killed_has_one_order(product: Product) -> None:
    clients = Clients(product)
    with ThreadPoolExecutor(CLIENTS + 1) as threads:
        acting = [threads.submit(clients.act, seed) for seed in range(CLIENTS)]
        killing = threads.submit(_kill_in_mid_work, product, clients)
        for one in (*acting, killing):
            one.result()
    with product.client() as http:
        for job in http.get("/v1/jobs", params={"state": "waiting,queued,running"}).json()["items"]:
            http.get(f"/v1/jobs/{job['id']}/wait", params={"timeout": 80})
        for volume in VOLUMES:
            clients.note(volume, clients.read(http, volume))
        attempts = [
            job["attempt"] for job in http.get("/v1/jobs", params={"limit": 1000}).json()["items"]
        ]
    for volume, history in clients.heard.items():
        assert explain(history) is not None, "\n".join(
            [f"no order explains what was heard of {volume}:", *map(str, history)]
        )
    heard = Counter(one.heard for history in clients.heard.values() for one in history)
    assert {"accepted", "there", "already_exists", "unknown_volume", "shrink_refused"} <= set(heard)
    assert max(attempts) > 1, "no job was taken up by another worker"
