"""A running product with something of everything in it, and browsers that have signed in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urljoin

import httpx
import pytest
from sqlalchemy import select

from orchestrator.domain.states import Role
from orchestrator.store.database import Database
from orchestrator.store.tables import installation
from tests.acceptance.conftest import PLAIN, Product, product, product_kind
from tests.console.pages import Form, Page
from tests.http.conftest import Api, begin_api
from workers.backends.memory.store import Faults

__all__ = ["begin_api", "product", "product_kind"]

#: What nobody should write into a field, and somebody does.
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {{ 7 * 7 }} &amp;"


def until(condition: Callable[[], bool]) -> None:
    """Ask until it is so: a session that was checked a moment ago is believed for some seconds,
    and events are numbered a moment after they happened."""
    latest = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < latest, "it never was so"
        time.sleep(0.05)


class Browser:
    """A browser: keeps cookies, reads pages, sends forms; follows no redirect by itself."""

    #: Those of the test that runs.
    opened: ClassVar[list[Browser]] = []

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=90, verify=PLAIN)
        self.opened.append(self)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Open an address."""
        return self.http.get(path, headers=headers)

    def page(self, path: str, status: int = 200) -> Page:
        """The page at an address, in which nothing is wrong."""
        answer = self.get(path)
        assert answer.status_code == status, (path, answer.status_code, answer.text[-2000:])
        found = Page(answer.text)
        assert found.wrongs() == [], path
        return found

    def send(self, form: Form, **filled: str) -> httpx.Response:
        """Send a form with these fields filled in."""
        assert form.method == "post"
        # The action is below the host, not below where this browser begins.
        action = self.http.base_url.join(form.action)
        return self.http.post(action, data={**form.fields, **filled})

    def sign_in(self, token: str, path: str = "/sign-in") -> httpx.Response:
        """Sign in with a token."""
        return self.send(self.page(path).form("/sign-in"), token=token)

    def follow(self, answer: httpx.Response) -> Page:
        """The page that a form led to."""
        assert answer.status_code == 303, (answer.status_code, answer.text[-2000:])
        return self.page(urljoin(str(answer.url), answer.headers["location"]))


@pytest.fixture(autouse=True)
def _browsers_are_closed() -> Iterator[None]:
    yield
    while Browser.opened:
        Browser.opened.pop().http.close()


@dataclass
class Filled:
    """A product, and the ids of what is in it."""

    product: Product
    http: httpx.Client
    faults: Faults
    tokens: dict[Role, str]
    ids: dict[str, int]

    def browser(self, role: Role = Role.ADMIN) -> Browser:
        """A browser in which a token of this role has signed in."""
        made = Browser(self.product.url)
        assert made.sign_in(self.tokens[role]).status_code == 303
        return made

    def token(self, name: str, role: Role, **more: Any) -> tuple[str, str]:
        """The id of a new token, and the token."""
        made = self.http.post("/v1/tokens", json={"name": name, "role": role, **more}).json()
        return made["id"], made["token"]

    def submit(self, action: str, backend: str = "ram", wait: int = 60, **more: Any) -> Any:
        """Submit a job; the job, ended unless that takes longer."""
        body = {"action": action, "backend": backend, **more}
        answer = self.http.post("/v1/jobs", json=body, headers={"Prefer": f"wait={wait}"})
        assert answer.status_code in (200, 202), answer.text
        return answer.json()


@pytest.fixture(scope="package")
def filled(product: Product) -> Iterator[Filled]:
    """A product with jobs of every state, a batch, volumes, a finding and events."""
    database = Database(product.database_url, pool_size=1)
    with database.read() as transaction:
        uuid = transaction.execute(select(installation.c.uuid)).scalar_one()
    database.close()
    with product.client() as http:
        made = Filled(product, http, Faults("ram", uuid), {}, {})
        for role in Role:
            made.tokens[role] = made.token(f"the-{role}", role)[1]
        fill(made)
        yield made
        made.faults.clear()


@pytest.fixture(scope="package")
def bare(begin_api: Callable[..., Api]) -> Api:
    """A service in which nothing is, below a prefix, behind a proxy."""
    return begin_api('[api]\nroot_path = "/storage"\ntrusted_proxies = ["127.0.0.1"]\n')


def fill(made: Filled) -> None:
    """Put something of everything into a product."""
    size = {"size_bytes": "8M"}
    later = "2999-01-01T00:00:00Z"
    submit, ids = made.submit, made.ids
    submit("policy.create", policy="web", params={"rules": ["10.0.0.0/8", "192.0.2.7"]})
    submit(
        "volume.create",
        volume="vm1",
        policy="web",
        params={**size, "metadata": {"owner": HOSTILE[:60]}},
    )
    ids["named"] = submit("volume.create", volume="a/b:c+d", params=size, reason=HOSTILE)["id"]
    submit("snapshot.create", volume="vm1", snapshot="monday")
    submit("volume.clone", volume="vm2", snapshot="monday", params={"source": "vm1"})
    submit("volume.attach", volume="vm2", host=made.product.host)
    lock = {"owner": "node1", "seconds": 86400, "reason": HOSTILE}
    assert made.http.put("/v1/backends/ram/volumes/vm1/lock", json=lock).status_code == 200
    made.faults.set(operation="create", name_pattern="bad*", kind="fail", code="no_space")
    ids["failed"] = submit("volume.create", volume="bad1", params=size)["id"]
    assert made.http.get(f"/v1/jobs/{ids['failed']}").json()["state"] == "failed"
    create = {"action": "volume.create", "backend": "ram", "params": size}
    wanted = [{**create, "volume": name} for name in ("b1", "b2", "b3", "bad2", "bad3")]
    batch = made.http.post(
        "/v1/batches",
        json={"jobs": wanted, "reason": HOSTILE},
        headers={"Prefer": "wait=60"},
    ).json()
    ids["batch"] = batch["id"]
    assert batch["failed"] == 2, batch
    ids["later"] = submit("volume.create", wait=0, volume="vm9", params=size, run_at=later)["id"]
    held: dict[str, Any] = {"volume": "vm3", "params": size, "approval": True}
    ids["approval"] = submit("volume.create", wait=0, **held)["id"]
    ids["canceled"] = submit("volume.create", wait=0, volume="vm8", params=size, run_at=later)["id"]
    made.http.post(f"/v1/jobs/{ids['canceled']}/cancel")
    ids["removed"] = submit("volume.remove", volume="b3")["id"]
    submit("volume.create", "fast", volume="stray", params=size)
    (made.product.volumes / "volumes" / "stray.raw").write_bytes(b"x" * 4096)
    assert submit("backend.audit", "fast")["state"] == "succeeded"
    ids["finding"] = made.http.get("/v1/findings").json()["items"][0]["id"]
