"""A product, and the providers through which the nodes of a cluster use it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.embedded.broker import EmbeddedBroker
from tests.acceptance.conftest import Product
from tests.chaos.processes import until
from tests.conformance.systems import XfsFiles, release_loops
from tests.rigs import ganeti
from workers.backends.file import loops


class Clustered(Product):
    """A product whose workers may run under the names of several hosts."""

    @contextmanager
    def worker_on(self, host: str) -> Iterator[None]:
        """One worker more, which takes this machine for another one."""
        log = self.data / f"{host}.log"
        with log.open("wb") as output:
            worker = subprocess.Popen(
                [
                    *(sys.executable, "-m", "orchestrator", "worker"),
                    *("--data", str(self.data), "--config", str(self.config)),
                ],
                env={**self._up_env, "ORCHESTRATOR_HOST": host},
                stdout=output,
                stderr=output,
            )

        def started() -> bool:
            assert worker.poll() is None, log.read_text()
            return "worker.started" in log.read_text()

        try:
            until(started, f"a worker on {host} starts")
            yield
        finally:
            worker.terminate()
            worker.wait()


class Installed:
    """The provider ``orch`` of a running product on a node, with the backend ``fast``."""

    def __init__(self, product: Product, room: Path, host: str | None = None) -> None:
        self.product = product
        #: What the node is called.
        self.host = host or product.host
        self.directory = room / "providers" / "orch"
        #: Where Ganeti keeps its own files.
        self.node = room / "node"
        done = product.run(
            *("extstorage", "install", str(self.directory)),
            *("--backend", "fast", "--host", self.host),
        )
        assert done.returncode == 0, done.stderr

    def ganeti(self, code: str, **given: Any) -> Any:
        """Run code with Ganeti's modules on this node; what it told."""
        search_path = [self.directory.parent]
        return ganeti.run(code, search_path=search_path, node=self.node, **given)

    def volumes(self) -> dict[str, dict[str, Any]]:
        with self.product.client() as client:
            found = client.get("/v1/backends/fast/volumes").raise_for_status().json()
        return {one["name"]: one for one in found["items"]}


@contextmanager
def _running(room: Path) -> Iterator[Installed]:
    if not loops.available():
        pytest.skip("loop devices need root, and a kernel that has them")
    ganeti.unpacked()
    broker = EmbeddedBroker(room / "broker")
    broker.start()
    try:
        product = Clustered(room, broker_url=broker.url)
        product.start()
        try:
            yield Installed(product, room)
        finally:
            product.stop()
            release_loops(product.volumes)
    finally:
        broker.stop()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with _running(tmp_path_factory.mktemp("ganeti")) as found:
        yield found


@pytest.fixture(scope="module")
def elsewhere(
    installed: Installed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Installed]:
    """Another node of the same cluster."""
    product = installed.product
    assert isinstance(product, Clustered)
    with product.worker_on("elsewhere"):
        yield Installed(product, tmp_path_factory.mktemp("elsewhere"), "elsewhere")


@pytest.fixture(scope="module")
def on_xfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    """Where a volume can be copied while it is attached."""
    system = XfsFiles()
    room = tmp_path_factory.mktemp("xfs")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ganeti.environment_of_xfs().items():
            patch.setenv(name, value)
        system.path = system.prepare(room)
    try:
        with _running(system.path) as found:
            yield found
    finally:
        system.stop()
