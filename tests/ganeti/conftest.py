"""A product, and the provider through which Ganeti uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Product
from tests.conformance.systems import release_loops
from tests.rigs import ganeti
from workers.backends.file import loops


class Installed:
    """The provider ``orch`` of a running product, on its backend ``fast``."""

    def __init__(self, product: Product, room: Path) -> None:
        self.product = product
        self.directory = room / "providers" / "orch"
        self.log = room / "log"
        done = product.run("extstorage", "install", str(self.directory), "--backend", "fast")
        assert done.returncode == 0, done.stderr

    def ganeti(self, code: str, **given: Any) -> Any:
        """Run code with Ganeti's modules on this provider; what it told."""
        search_path = [self.directory.parent]
        return ganeti.run(code, search_path=search_path, log_directory=self.log, **given)

    def volumes(self) -> dict[str, dict[str, Any]]:
        with self.product.client() as client:
            found = client.get("/v1/backends/fast/volumes").raise_for_status().json()
        return {one["name"]: one for one in found["items"]}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    if not loops.available():
        pytest.skip("loop devices need root, and a kernel that has them")
    ganeti.unpacked()
    room = tmp_path_factory.mktemp("ganeti")
    product = Product(room)
    product.start()
    try:
        yield Installed(product, room)
    finally:
        product.stop()
        release_loops(product.volumes)
