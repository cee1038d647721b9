"""What stands around the service: a broker that trusts nobody, and a proxy with TLS and a prefix.

Both are configured as the documents say, word for word.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.acceptance.conftest import Product, free_port
from tests.chaos.processes import until
from tests.rigs.installed import Nginx, Redis

_DOCS = Path(__file__).parents[2] / "docs"
PASSWORD = "s3cret"


def _create(volume: str) -> dict[str, Any]:
    return {
        "action": "volume.create",
        "backend": "ram",
        "volume": volume,
        "params": {"size_bytes": "1M"},
    }


@pytest.fixture
def broker() -> Iterator[Redis]:
    made = Redis(free_port())
    yield made
    made.stop()


def _user_of_documents(admin: redis.Redis) -> list[str]:
    """The command that gives the broker's user its rights, as the documents have it."""
    found = re.search(r"^(ACL SETUSER .*)$", (_DOCS / "configuration.md").read_text(), re.MULTILINE)
    assert found
    words = found[1].replace("PASSWORD", PASSWORD).split()
    version = tuple(int(part) for part in admin.info("server")["redis_version"].split("."))
    return [word for word in words if version >= (7, 2) or word != "+client|setinfo"]


def test_a_broker_with_tls_few_rights_and_no_memory_carries_its_hints(
    broker: Redis, tmp_path: Path
) -> None:
    product = Product(tmp_path, broker_url=broker.url("orchestrator", PASSWORD))
    product.config.write_text(f'{product.config.read_text()}\n[broker]\nprefix = "orchestrator:"\n')
    with broker.client() as admin:
        admin.execute_command(*_user_of_documents(admin))
        product.start()
        try:
            with product.client() as http:
                wait = {"Prefer": "wait=60"}
                made = http.post("/v1/jobs", json=_create("vm1"), headers=wait)
                assert made.json()["state"] == "succeeded"
                assert admin.acl_log() == []
                assert httpx.get(f"{product.url}/readyz", params={"strict": "true"}).is_success
                # Whatever it is asked to keep, it has no room for.
                admin.config_set("maxmemory", 1)
                made = http.post("/v1/jobs", json=_create("vm2"), headers=wait)
                assert made.json()["state"] == "succeeded"
                admin.config_set("maxmemory", 0)
                until(
                    lambda: (
                        httpx.get(f"{product.url}/readyz", params={"strict": "true"}).is_success
                    ),
                    "it carries hints again",
                )
                made = http.post("/v1/jobs", json=_create("vm3"), headers=wait)
                assert made.json()["state"] == "succeeded"
            assert PASSWORD not in product.log.read_text()
        finally:
            product.stop()


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[tuple[Product, Nginx]]:
    """The product behind nginx, each as docs/http.md configures it."""
    product = Product(tmp_path)
    blocks = dict(re.findall(r"```(nginx|toml)\n(.*?)```", _behind_a_proxy(), re.DOTALL))
    nginx = Nginx(free_port(), blocks["nginx"].replace("http://127.0.0.1:8080", product.url))
    product.config.write_text(f"{product.config.read_text()}\n{blocks['toml']}")
    try:
        product.start()
        yield product, nginx
    finally:
        product.stop()
        nginx.stop()


def _behind_a_proxy() -> str:
    return (_DOCS / "http.md").read_text().partition("## Behind a proxy\n")[2]


def test_the_service_is_used_by_way_of_a_proxy_with_tls_and_a_prefix(
    behind: tuple[Product, Nginx],
) -> None:
    product, nginx = behind
    outside = f"https://127.0.0.1:{nginx.port}"
    with httpx.Client(
        base_url=outside,
        headers={"Authorization": f"Bearer {product.token}"},
        verify=ssl.create_default_context(cafile=str(nginx.certificate)),
        timeout=90,
    ) as http:
        made = http.post(
            "/storage/v1/jobs", json=_create("a/snapshots"), headers={"Prefer": "wait=60"}
        )
        assert made.json()["state"] == "succeeded"
        accepted = http.post("/storage/v1/jobs", json=_create("vm2"))
        assert accepted.headers["Location"] == f"/storage/v1/jobs/{accepted.json()['id']}"
        assert http.get(accepted.headers["Location"]).status_code == 200
        volume = http.get("/storage/v1/backends/ram/volumes/a%2Fsnapshots")
        assert volume.json()["name"] == "a/snapshots"
        moved = http.get("/storage/v1/jobs/")
        assert (moved.status_code, moved.headers["Location"]) == (307, "/storage/v1/jobs")
        with http.stream(
            "GET",
            "/storage/v1/events",
            params={"after": 0},
            headers={"Accept": "text/event-stream"},
        ) as stream:
            assert next(line for line in stream.iter_lines() if line.startswith("data:"))
        jobs = [{**_create(f"batch{number}"), "reason": "r" * 500} for number in range(2500)]
        batch = http.post("/storage/v1/batches", json={"jobs": jobs})
        assert batch.status_code == 202, batch.text
    listed = product.run(
        *("volume", "list", "--backend", "ram", "--json"),
        ORCHESTRATOR_URL=f"{outside}/storage",
        ORCHESTRATOR_TOKEN=product.token,
        SSL_CERT_FILE=str(nginx.certificate),
    )
    assert listed.returncode == 0, listed.stderr
