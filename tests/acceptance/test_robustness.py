"""The product when parts of it die: nothing accepted is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from orchestrator.embedded.broker import EmbeddedBroker
from orchestrator.store.database import Database
from orchestrator.store.tables import installation
from tests.acceptance.conftest import Product
from tests.rigs.terminal import Terminal
from workers.backends.memory.store import Faults

pytestmark = pytest.mark.slow

WAITERS = 1000


def _until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something to become true, however slow the machine is."""
    until = time.monotonic() + 100
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"never happened: {what}")


def _faults(product: Product) -> Faults:
    database = Database(product.database_url, pool_size=1)
    with database.read() as connection:
        uuid = connection.execute(select(installation.c.uuid)).scalar_one()
    database.close()
    return Faults("ram", uuid)


def _create(volume: str, backend: str = "ram", **more: Any) -> dict[str, Any]:
    return {
        "action": "volume.create",
        "backend": backend,
        "volume": volume,
        "params": {"size_bytes": "1M"},
        **more,
    }


def _ended(http: httpx.Client, job_id: int) -> Any:
    return http.get(f"/v1/jobs/{job_id}/wait", params={"timeout": 80}).json()


def test_a_job_whose_worker_is_killed_in_mid_work_ends_right_and_once(
    own_product: Product,
) -> None:
    with own_product.client() as http:
        _faults(own_product).set(operation="create", kind="slow", seconds=600.0, times=1)
        job_id = http.post("/v1/jobs", json=_create("vm1")).json()["id"]
        follower = http.post("/v1/jobs", json=_create("vm2")).json()["id"]
        _until(lambda: http.get(f"/v1/jobs/{job_id}").json()["state"] == "running", "it runs")
        for pid in own_product.children()["worker"]:
            os.kill(pid, signal.SIGKILL)
        job = _ended(http, job_id)
        assert (job["state"], job["attempt"]) == ("succeeded", 2)
        assert [attempt["outcome"] for attempt in job["attempts"]] == ["lost"]
        assert _ended(http, follower)["state"] == "succeeded"
        volumes = http.get("/v1/backends/ram/volumes").json()["items"]
        assert [volume["name"] for volume in volumes] == ["vm1", "vm2"]
        checked = http.post("/v1/backends/ram/volumes/vm1/verify", headers={"Prefer": "wait=60"})
        assert checked.json()["result"]["agrees"] is True


def test_going_down_hands_back_what_runs_and_coming_up_goes_on(own_product: Product) -> None:
    with own_product.client() as http:
        _faults(own_product).set(operation="create", kind="slow", seconds=600.0, times=1)
        job_id = http.post("/v1/jobs", json=_create("vm1")).json()["id"]
        _until(lambda: http.get(f"/v1/jobs/{job_id}").json()["state"] == "running", "it runs")
    assert own_product.stop() == 0
    own_product.start()
    with own_product.client() as http:
        assert _ended(http, job_id)["state"] == "succeeded"


def test_going_down_answers_those_who_wait(own_product: Product) -> None:
    answers: list[httpx.Response] = []

    def wait() -> None:
        with own_product.client() as http:
            body = _create("vm1", run_at="2999-01-01T00:00:00Z")
            answers.append(http.post("/v1/jobs", json=body, headers={"Prefer": "wait=80"}))

    waiting = threading.Thread(target=wait)
    waiting.start()
    with own_product.client() as http:
        _until(lambda: "orchestrator_waiters 1.0" in http.get("/metrics").text, "it waits")
    assert own_product.stop() == 0
    waiting.join()
    assert [answer.status_code for answer in answers] == [202]
    assert "Traceback" not in own_product.log.read_text()
    own_product.start()


def test_down_leaves_no_process_behind(own_product: Product) -> None:
    parts = own_product.children()
    assert {"api", "worker", "scheduler", "broker"} <= set(parts)
    assert own_product.stop() == 0
    left = [pid for pids in parts.values() for pid in pids if Path(f"/proc/{pid}").exists()]
    assert left == []
    own_product.start()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[EmbeddedBroker]:
    made = EmbeddedBroker(tmp_path / "outside-broker")
    made.start()
    yield made
    made.stop()


def test_jobs_are_accepted_and_run_while_the_broker_is_down_and_after(
    tmp_path: Path, broker: EmbeddedBroker
) -> None:
    product = Product(tmp_path, broker_url=broker.url)
    product.start()
    try:
        with product.client() as http:
            assert http.post("/v1/jobs", json=_create("before")).status_code == 202
            broker.stop()
            accepted = http.post("/v1/jobs", json=_create("during"))
            assert accepted.status_code == 202
            # Load balancers go on sending requests, unless they ask for more.
            ready, strict = http.get("/readyz"), http.get("/readyz?strict")
            assert (ready.status_code, ready.json()["broker"]) == (200, "down")
            assert (strict.status_code, strict.json()["broker"]) == (503, "down")
            # Workers look into the database by themselves.
            assert _ended(http, accepted.json()["id"])["state"] == "succeeded"
            held = http.post("/v1/jobs", json=_create("held")).json()["id"]
            broker.start()
            _until(lambda: http.get("/readyz?strict").status_code == 200, "the broker is back")
            assert _ended(http, held)["state"] == "succeeded"
            again = http.post("/v1/jobs", json=_create("after"), headers={"Prefer": "wait=60"})
            assert again.json()["state"] == "succeeded"
    finally:
        product.stop()


def test_the_embedded_broker_is_started_again_when_it_dies(own_product: Product) -> None:
    with own_product.client() as http:
        [pid] = own_product.children()["broker"]
        os.kill(pid, signal.SIGKILL)
        job_id = http.post("/v1/jobs", json=_create("vm1")).json()["id"]
        assert _ended(http, job_id)["state"] == "succeeded"
        _until(lambda: own_product.children().get("broker", [pid]) != [pid], "a new broker")
        _until(lambda: http.get("/readyz?strict").status_code == 200, "ready again")


@pytest.mark.parametrize("part", ["worker", "api", "scheduler"])
def test_a_part_that_is_killed_now_and_then_is_back_at_once(
    own_product: Product, part: str
) -> None:
    before: set[int] = set()

    def another() -> bool:
        return bool(set(own_product.children().get(part, [])) - before)

    for _ in range(2):
        before = set(own_product.children()[part])
        os.kill(min(before), signal.SIGKILL)
        _until(another, "another one")
    told = [line for line in own_product.log.read_text().splitlines() if "up.part_died" in line]
    assert len(told) == 2
    assert all("again_in=0.0" in line for line in told), told


def test_jobs_wait_for_an_unmounted_directory_which_is_never_an_empty_backend(
    own_product: Product,
) -> None:
    with own_product.client() as http:
        wait = {"Prefer": "wait=60"}
        http.post("/v1/jobs", json=_create("vm1", "fast"), headers=wait)
        aside = own_product.volumes.with_name("unmounted")
        own_product.volumes.rename(aside)
        own_product.volumes.mkdir()
        answered = http.post("/v1/jobs", json=_create("vm2", "fast")).json()
        assert "id" in answered, answered
        creation = answered["id"]
        removal = http.delete("/v1/backends/fast/volumes/vm1").json()["id"]

        def waiting() -> bool:
            jobs = [http.get(f"/v1/jobs/{job}").json() for job in (creation, removal)]
            return all((job["waiting_on"] or {}).get("kind") == "backend" for job in jobs)

        _until(waiting, "both jobs wait for their backend")
        assert http.get("/v1/backends/fast").json()["unavailable_since"] is not None
        assert list(own_product.volumes.iterdir()) == []
        own_product.volumes.rmdir()
        aside.rename(own_product.volumes)
        assert _ended(http, creation)["state"] == "succeeded"
        assert _ended(http, removal)["state"] == "succeeded"
        assert http.get("/v1/backends/fast/volumes/vm1").status_code == 404
        assert http.get("/v1/backends/fast/volumes/vm2").status_code == 200
        assert http.get("/v1/backends/fast").json()["unavailable_since"] is None


async def _get(product: Product, path: str) -> bytes:
    """The answer to one request on a connection of its own, with its head."""
    host, _, port = product.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {product.token}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


def test_a_thousand_waiters_are_told_of_one_job_by_one_process(product: Product) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def wait_all(http: httpx.Client, job_id: int) -> list[str]:
        path = f"/v1/jobs/{job_id}/wait?timeout=100"
        waiting = [asyncio.create_task(_get(product, path)) for _ in range(WAITERS)]
        while f"orchestrator_waiters {WAITERS}".encode() not in await _get(product, "/metrics"):
            early = [task.result() for task in waiting if task.done()]
            assert not early, f"answered before the end: {early[0]!r}\n{product.log.read_text()}"
            await asyncio.sleep(0.1)
        begun = time.monotonic()
        canceled = asyncio.to_thread(http.post, f"/v1/jobs/{job_id}/cancel")
        assert (await canceled).status_code == 202
        answers = await asyncio.gather(*waiting)
        print(f"{WAITERS} waiters were answered in {time.monotonic() - begun:.2f} s")
        return [json.loads(answer.partition(b"\r\n\r\n")[2])["state"] for answer in answers]

    with product.client() as http:
        job = http.post("/v1/jobs", json=_create("waited", run_at="2999-01-01T00:00:00Z")).json()
        assert asyncio.run(wait_all(http, job["id"])) == ["canceled"] * WAITERS


_NOT_WITH_NOHUP = pytest.mark.skipif(
    signal.getsignal(signal.SIGHUP) is signal.SIG_IGN,
    reason="what is started with nohup, and all that it starts, outlives its terminal",
)


@_NOT_WITH_NOHUP
def test_a_closed_terminal_takes_the_service_down_in_order(tmp_path: Path) -> None:
    product, terminal = Product(tmp_path), Terminal()
    product.python = terminal.command(*product.python)
    product.start()
    assert (product.data / "endpoint.json").exists()
    assert product.process is not None
    terminal.close()
    assert product.process.wait(60) == 0
    assert not (product.data / "endpoint.json").exists()
    assert "up.part_killed" not in product.log.read_text()


@_NOT_WITH_NOHUP
def test_without_a_terminal_all_parts_read_the_configuration_again(tmp_path: Path) -> None:
    product = Product(tmp_path)
    product.python = ["setsid", *product.python]
    product.start()
    parts = {name: set(pids) for name, pids in product.children().items()}
    with product.config.open("a") as config:
        config.write('[backends.more]\ndriver = "memory"\n')
    assert product.process is not None
    product.process.send_signal(signal.SIGHUP)
    created = _create("v", "more")
    with product.client() as http:

        def succeeds() -> bool:
            try:
                answer = http.post("/v1/jobs", json=created, headers={"Prefer": "wait=60"})
            except httpx.HTTPError:
                return False
            return answer.status_code == 200 and answer.json()["state"] == "succeeded"

        _until(succeeds, "a job on the new backend")
    assert {name: set(pids) for name, pids in product.children().items()} == parts
    assert product.stop() == 0


@pytest.mark.parametrize("own_product", ["sqlite"], indirect=True)
def test_a_revoked_local_token_is_replaced(own_product: Product) -> None:
    with own_product.client() as http:
        old = own_product.token
        [id_] = [t["id"] for t in http.get("/v1/tokens").json()["items"] if t["name"] == "local"]
        assert http.delete(f"/v1/tokens/{id_}").status_code == 204
        _until(lambda: own_product.token != old, "there is a new one")
        # A process may have trusted it a moment ago.
        _until(lambda: http.get("/v1/jobs").status_code == 401, "the old one is refused")
    listed = own_product.run("token", "list", "--json", ORCHESTRATOR_DATA=str(own_product.data))
    assert listed.returncode == 0, listed.stderr
    with own_product.client() as http:
        assert http.get("/v1/jobs").status_code == 200
        (own_product.data / "token").unlink()
        _until((own_product.data / "token").exists, "a file that was lost is written again")
