"""Two of one: a data directory that was copied, and one that was restored, beside production."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from orchestrator.store import copying
from orchestrator.store.database import Database
from orchestrator.store.tables import backends
from tests.acceptance.conftest import Product, free_port

SECONDS = 60.0

#: Each brings the product up twice.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


class Copy(Product):
    """Another ``up`` with the same configuration, on a copy of the data directory."""

    def __init__(self, of: Product, directory: Path, database_url: str | None) -> None:
        super().__init__(directory, database_url)
        self.config = of.config
        self.env |= {"ORCHESTRATOR_URL": self.url}


@pytest.fixture
def beside(
    own_product: Product, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[], Copy]]:
    """Copies the running product's data, and starts the copy beside it."""
    server, name, made = None, f"copy_{free_port()}", []

    def copy() -> Copy:
        nonlocal server
        url = None
        if not own_product.database_url.startswith("sqlite"):
            server = request.getfixturevalue("postgres_server")
            server.create_database(name)
            url = server.url(name)
            copying.fill(own_product.database_url, url)
        one = Copy(own_product, tmp_path / "copy", url)
        shutil.copytree(own_product.data, one.data, ignore=_sockets)
        if url is None:
            _backup(own_product.data / "orchestrator.db", one.data / "orchestrator.db")
        made.append(one)
        one.start()
        return one

    yield copy
    for one in made:
        one.stop()
    if server is not None:
        server.drop_database(name)


def _sockets(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if not (Path(directory) / name).is_file()
            and not (Path(directory) / name).is_dir()]  # fmt: skip


def _backup(source: Path, to: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        to.with_name(to.name + ending).unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(to)) as other:
        one.backup(other)


def submit(product: Product, *words: str) -> dict[str, Any]:
    """Submit a job and wait for its end."""
    with product.client() as client:
        action, backend, volume, *params = words
        request: dict[str, Any] = {"action": action, "backend": backend}
        if volume:
            request["volume"] = volume
        told = dict(word.split("=") for word in params)
        request["params"] = {name: {"true": True}.get(value, value) for name, value in told.items()}
        answer = client.post("/v1/jobs", json=request, headers={"Prefer": "wait=60"})
        assert answer.status_code in (200, 202), answer.text
        found: dict[str, Any] = answer.json()
        return found


def renewed(product: Product) -> None:
    """Have the leases on the storage renewed, as happens every few seconds, and wait for it."""
    database = Database(product.database_url, pool_size=1)
    try:
        query = select(backends.c.name, backends.c.lease)
        with database.write() as connection:
            before = dict(connection.execute(query).all())
            connection.execute(update(backends).values(lease_at=None))
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            now = database.look(lambda connection: dict(connection.execute(query).all()))
            if all(now[name] != lease for name, lease in before.items()):
                return
            time.sleep(0.05)
    finally:
        database.close()
    raise AssertionError("the leases were not renewed")


@pytest.mark.parametrize("when", ["at once", "later"])
def test_a_copied_data_directory_refuses_to_change_anything_and_production_goes_on(
    own_product: Product, beside: Callable[[], Copy], when: str
) -> None:
    for backend in ("fast", "ram"):
        assert submit(own_product, "volume.create", backend, "a", "size=1M")["state"] == "succeeded"
    copy = beside()
    if when == "later" or copy.database_url.startswith("postgresql"):
        renewed(own_product)
    for backend in ("fast", "ram"):
        for action, *rest in (
            ("volume.grow", "a", "size=2M"),
            ("volume.remove", "a"),
            ("volume.create", "b", "size=1M"),
            ("backend.audit", ""),
        ):
            job = submit(copy, action, backend, *rest)
            assert (job["state"], job["error"]["code"]) == ("failed", "identity_mismatch"), job
            assert "copy of this database" in job["error"]["detail"]
    shown = ("backend", "show", "fast", "--json")
    until = time.monotonic() + SECONDS
    # Its row is written at the next look, which may be seconds away.
    while "copy of this database" not in copy.run(*shown, ORCHESTRATOR_TOKEN=copy.token).stdout:
        assert time.monotonic() < until
    for backend in ("fast", "ram"):
        assert submit(own_product, "volume.grow", backend, "a", "size=2M")["state"] == "succeeded"
        assert submit(own_product, "backend.audit", backend, "")["result"]["findings"] == {}


@pytest.mark.parametrize("own_product", ["sqlite"], indirect=True)
def test_an_older_database_that_is_put_back_is_noticed_and_refused_until_accepted(
    own_product: Product, tmp_path: Path
) -> None:
    assert submit(own_product, "volume.create", "fast", "a", "size=1M")["state"] == "succeeded"
    file = own_product.data / "orchestrator.db"
    _backup(file, tmp_path / "backup")
    lost = [submit(own_product, "volume.grow", "fast", "a", f"size={n}M") for n in (2, 3, 4)]
    renewed(own_product)
    own_product.stop()
    _backup(tmp_path / "backup", file)
    own_product.start()
    refused = submit(own_product, "volume.remove", "fast", "a")
    assert refused["error"]["code"] == "identity_mismatch"
    accepted = submit(own_product, "backend.verify", "fast", "", "accept_identity=true")
    assert accepted["state"] == "succeeded", accepted
    grown = submit(own_product, "volume.grow", "fast", "a", "size=8M")
    assert grown["state"] == "succeeded", grown
    assert grown["id"] > max(job["id"] for job in lost)


def test_a_backup_is_made_while_the_service_runs_and_restored_when_it_is_stopped(
    own_product: Product, tmp_path: Path
) -> None:
    own_product.env |= {
        name: value for name, value in own_product._up_env.items() if "DATABASE" in name
    }
    options = ("--data", str(own_product.data), "--config", str(own_product.config))
    assert submit(own_product, "volume.create", "fast", "a", "size=1M")["state"] == "succeeded"
    file = tmp_path / "backup"
    done = own_product.run("db", "backup", str(file), *options)
    assert done.returncode == 0, done.stderr
    lost = submit(own_product, "volume.grow", "fast", "a", "size=2M")
    running = own_product.run("db", "restore", str(file), "--replace", *options)
    assert running.returncode == 4
    assert "stop the service" in running.stderr
    own_product.stop()
    done = own_product.run("db", "restore", str(file), "--replace", *options)
    assert done.returncode == 0, done.stderr
    assert "orchestrator audit acknowledge" in done.stdout
    own_product.start()
    grown = submit(own_product, "volume.grow", "fast", "a", "size=4M")
    assert grown["state"] == "succeeded", grown
    assert grown["id"] > lost["id"]


def test_a_database_is_copied_to_another_server_and_the_service_goes_on_there(
    own_product: Product, request: pytest.FixtureRequest
) -> None:
    old = {name: value for name, value in own_product._up_env.items() if "DATABASE" in name}
    options = ("--data", str(own_product.data), "--config", str(own_product.config))
    made = submit(own_product, "volume.create", "fast", "a", "size=1M")
    assert made["state"] == "succeeded"
    server, name = request.getfixturevalue("postgres_server"), f"moved_{free_port()}"
    server.create_database(name)
    copying_ = ("db", "copy", "--to", server.url(name), *options)
    try:
        running = own_product.run(*copying_, **old)
        assert (running.returncode, "stop the service" in running.stderr) == (4, True)
        own_product.stop()
        done = own_product.run(*copying_, **old)
        assert done.returncode == 0, done.stderr
        assert "set database.url to the new one" in done.stdout
        again = own_product.run(*copying_, **old)
        assert (again.returncode, "name an empty one" in again.stderr) == (4, True)
        own_product._up_env["ORCHESTRATOR_DATABASE__URL"] = server.url(name)
        own_product.start()
        # The same token, volumes, numbers and history.
        grown = submit(own_product, "volume.grow", "fast", "a", "size=4M")
        assert (grown["state"], grown["id"]) == ("succeeded", made["id"] + 1)
        assert submit(own_product, "backend.audit", "fast", "")["result"]["findings"] == {}
        new = {"ORCHESTRATOR_DATABASE__URL": server.url(name)}
        verified = own_product.run("audit", "verify", *options, **new)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    finally:
        own_product.stop()
        server.drop_database(name)
