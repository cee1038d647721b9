"""Sentinel makes a replica the primary in the middle of the work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from orchestrator import broker
from orchestrator.jobs.notices import CHANNEL
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.tables import events, installation
from tests.acceptance.conftest import Product
from tests.broker.conftest import Plain, stored, until
from tests.broker.sentinel import NAME, Sentinels
from workers.backends.memory.store import erase

_JOBS = 300

#: Workers do not look by themselves: they are told by message, or not at all.
_CONFIG = """\
[worker]
claim_seconds = 3600

[scheduler]
relay_seconds = 1

[backends.ram]
driver = "memory"
capacity = "1T"
delay = 0.02
"""


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Sentinels]:
    """A primary, a replica and three Sentinels."""
    made = Sentinels(tmp_path / "sentinels")
    yield made
    made.close()


@pytest.mark.slow
def test_plain_tasks_that_the_replica_had_not_heard_of_are_gone_after_a_fail_over(
    tmp_path: Path, sentinels: Sentinels
) -> None:
    # Without the second, each question to a Sentinel that is gone takes it several seconds.
    options = {"master_name": NAME, "sentinel_kwargs": {"retry": None}}
    plain = Plain(tmp_path / "plain", sentinels.plain_url, broker_transport_options=options)
    try:
        sentinels.cut_off_replica()
        plain.send("quick", "before")
        sentinels.lose_host()
        sentinels.until_failed_over()
        plain.send("quick", "after")
        plain.worker()
        plain.until_done("after")
        assert plain.journal() == ["after done"]
    finally:
        plain.close()


@pytest.mark.slow
def test_a_batch_outlives_a_fail_over_and_messages_and_notices_flow_again(
    tmp_path: Path, sentinels: Sentinels
) -> None:
    product = Product(tmp_path / "product", broker_url=sentinels.url)
    product.config.write_text(_CONFIG)
    product.start()
    uuid = _read(product, select(installation.c.uuid))[0]
    try:
        with product.client() as http:
            sentinels.cut_off_replica()
            wanted = [_create(f"vm-{n}") for n in range(_JOBS)]
            batch = http.post("/v1/batches", json={"jobs": wanted}).json()
            path = f"/v1/batches/{batch['id']}"
            until(lambda: http.get(path).json()["succeeded"] > 20, "the batch is under way")
            sentinels.lose_host()
            assert http.get(path).json()["unfinished"] > 0
            accepted = http.post("/v1/jobs", json=_create("during"))
            assert accepted.status_code == 202
            sentinels.until_failed_over()
            until(lambda: http.get(path).json()["unfinished"] == 0, "the batch has ended")
            until(lambda: http.get("/readyz?strict").status_code == 200, "the broker is found")
            later = http.post("/v1/jobs", json=_create("after"), headers={"Prefer": "wait=60"})
            assert later.json()["state"] == "succeeded"
            during = http.get(f"{accepted.headers['Location']}/wait", params={"timeout": 60})
            assert during.json()["state"] == "succeeded"
            with sentinels.primary() as primary:
                until(lambda: primary.pubsub_numsub(CHANNEL)[0][1] > 0, "the API listens there")
        ended = select(events.c.job_id, func.count()).where(events.c.kind == "job.succeeded")
        jobs = {*batch["job_ids"], accepted.json()["id"], later.json()["id"]}
        assert dict(_read(product, ended.group_by(events.c.job_id))) == dict.fromkeys(jobs, 1)
        assert len(jobs) == len(stored("ram", uuid)) == _JOBS + 2
    finally:
        product.stop()
        erase("ram", uuid)


def test_sentinels_are_named_one_after_the_other_and_each_part_counts_for_all() -> None:
    url = "sentinel://one:26379;sentinel://user:a%2Fb@two:7000/3?master_name=jobs;[::1]:26380"
    assert Settings(broker={"url": url}).broker_url == url
    pool: Any = broker.client(f"{url}?sentinel_password=s").connection_pool
    places = [
        client.connection_pool.connection_kwargs for client in pool.sentinel_manager.sentinels
    ]
    assert [(one["host"], one["port"], one["password"]) for one in places] == [
        ("one", 26379, "s"),
        ("two", 7000, "s"),
        ("::1", 26380, "s"),
    ]
    assert pool.service_name == "jobs"
    told = pool.connection_kwargs
    assert (told["username"], told["password"], told["db"]) == ("user", "a/b", 3)


def _create(volume: str) -> dict[str, Any]:
    params = {"size_bytes": "1M"}
    return {"action": "volume.create", "backend": "ram", "volume": volume, "params": params}


def _read(product: Product, query: Any) -> Any:
    database = Database(product.database_url, pool_size=1)
    try:
        with database.read() as connection:
            found = connection.execute(query).all()
            return [row[0] if len(row) == 1 else tuple(row) for row in found]
    finally:
        database.close()
