"""The NAS contract's storages, and the whole product that serves them at ``/v3``."""

from __future__ import annotations

import asyncio
import shutil
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from orchestrator.api.nas import nas_application
from orchestrator.api.requesting import trusted_tokens
from orchestrator.api.service import Service
from orchestrator.asgi.rawpaths import RawPaths
from orchestrator.embedded.broker import EmbeddedBroker
from orchestrator.nas import DummyStorage, NetappStorage, StorageBackend
from orchestrator.nas.edges.private import PrivateEngine
from orchestrator.nas.edges.storage import _Private
from orchestrator.nas.fields import place_of
from orchestrator.settings import Settings
from orchestrator.store.database import Database
from orchestrator.store.tables import installation
from tests.acceptance.conftest import Product
from tests.ontap import double as filer
from workers.backends.memory.driver import MemoryDriver

#: The size of volumes here: enough for every kind of storage, and a multiple of their grains.
SIZE = 20 * 2**20

#: Each has one role and no other; `nobody` has a valid token and no role. To anonymous callers
#: is left what needs no role at all.
_V3 = """
[v3]
user = ["user"]
admin = ["admin"]
uber_admin = ["uber"]
"""
USER, ADMIN, UBER, NOBODY = "user", "admin", "uber", "nobody"


class FileStorage(_Private):
    """Storage on files, with an engine of its own."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        super().__init__(PrivateEngine({"driver": "file", "path": str(directory)}))

    def image(self, uuid: str) -> Path:
        """The image of a volume."""
        (found,) = self.directory.glob(f"volumes/**/*~{uuid}.img")
        return found


def _write_image(storage: Any, uuid: str, data: bytes) -> None:
    with storage.image(uuid).open("r+b") as file:
        file.write(data)


def _read_image(storage: Any, uuid: str, length: int) -> bytes:
    with storage.image(uuid).open("rb") as file:
        return bytes(file.read(length))


def _ram(storage: Any) -> MemoryDriver:
    (driver,) = storage.gateway._serving.drivers.values()
    assert isinstance(driver, MemoryDriver)
    return driver


@dataclass(frozen=True)
class Kind:
    """One kind of storage, as far as its tests differ from those of others."""

    #: Begins an empty one, given a directory that is not there yet; the product, if it is asked
    #: for, is shared.
    begin: Callable[[Path, Callable[[], Product]], StorageBackend]
    #: Ends it.
    end: Callable[[Any], None] = lambda storage: storage.close()
    #: Whether it has export policies.
    policies: bool = True
    #: Whether it has the settings that only NAS filers have.
    settings: bool = True
    #: Whether nothing else uses it, so that it is empty at first.
    own: bool = True
    #: Write to the beginning of a volume as its user would, and read from there: given the
    #: storage, the volume's uuid, and data or a length. None where there is no such way.
    write: Callable[[Any, str, bytes], None] | None = None
    read: Callable[[Any, str, int], bytes] | None = None


def _over_http(_directory: Path, product: Callable[[], Product]) -> StorageBackend:
    running = product()
    return StorageBackend(backend="ram", url=running.url, token=running.token)


def _disconnect(storage: StorageBackend) -> None:
    storage.close()


class Filer(NetappStorage):
    """A filer's SVM; volumes that a test gives no place are mounted somewhere."""

    def __init__(self, directory: Path) -> None:
        self.double = filer.Double().start()
        super().__init__(
            "127.0.0.1",
            filer.USER,
            filer.PASSWORD,
            "svm1",
            data=directory,
            scheme="http",
            port=self.double.port,
            poll=0.01,
        )

    def create_volume(self, volume_name: object, **fields: Any) -> Any:
        if place_of(str(volume_name)) is None:
            fields.setdefault("junction_path", f"/{uuid.uuid4().hex}")
        return super().create_volume(volume_name, **fields)

    def close(self) -> None:
        super().close()
        self.double.stop()


#: The kinds of storage that keep the contract. A new one (``ontap``) is an entry here.
KINDS: dict[str, Kind] = {
    "dummy": Kind(
        lambda _directory, _product: DummyStorage(),
        write=lambda storage, uuid, data: _ram(storage).write(uuid, data),
        read=lambda storage, uuid, length: _ram(storage).read(uuid, length),
    ),
    "file": Kind(
        lambda directory, _product: FileStorage(directory),
        policies=False,
        settings=False,
        write=_write_image,
        read=_read_image,
    ),
    "ontap": Kind(lambda directory, _product: Filer(directory)),
    "http": Kind(_over_http, end=_disconnect, own=False),
}
WITH_POLICIES = [name for name, kind in KINDS.items() if kind.policies]
WITHOUT_POLICIES = [name for name, kind in KINDS.items() if not kind.policies]
WITH_SETTINGS = [name for name, kind in KINDS.items() if kind.settings]
WITHOUT_SETTINGS = [name for name, kind in KINDS.items() if not kind.settings]
WITH_CONTENTS = [name for name, kind in KINDS.items() if kind.write and kind.read]
OWN = [name for name, kind in KINDS.items() if kind.own]


class Storages:
    """Storages that all tests here share, each begun when it is first asked for."""

    def __init__(self, directory: Path, product: Callable[[], Product]) -> None:
        self._directory = directory
        self.product = product
        self._begun: list[tuple[Kind, StorageBackend]] = []
        self._shared: dict[str, StorageBackend] = {}

    def shared(self, kind: str) -> StorageBackend:
        """The one of this kind that all tests use."""
        if kind not in self._shared:
            self._shared[kind] = self.fresh(kind)
        return self._shared[kind]

    def fresh(self, kind: str) -> StorageBackend:
        """One of its own."""
        made = KINDS[kind].begin(self._directory / uuid.uuid4().hex, self.product)
        self._begun.append((KINDS[kind], made))
        return made

    def end(self) -> None:
        for kind, storage in reversed(self._begun):
            kind.end(storage)


@pytest.fixture(scope="package")
def storages(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Storages]:
    directory = tmp_path_factory.mktemp("nas")
    made = Storages(directory, lambda: request.getfixturevalue("nas_product").product)
    yield made
    made.end()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """Runs a test once for each kind of storage."""
    name: str = request.param
    return name


@pytest.fixture
def storage(kind: str, storages: Storages) -> StorageBackend:
    """A storage that other tests use too."""
    return storages.shared(kind)


@pytest.fixture
def fresh(kind: str, storages: Storages) -> StorageBackend:
    """An empty storage of this test's own, where the kind allows that."""
    return storages.fresh(kind)


@pytest.fixture
def name() -> str:
    """A name no other test uses, and such as every kind of storage takes."""
    return f"t_{uuid.uuid4().hex[:12]}"


# -- the product ------------------------------------------------------------------------------


class Nas:
    """A product that serves ``/v3``, and a client for each token."""

    def __init__(self, product: Product, broker_url: str) -> None:
        self.product = product
        self._broker_url = broker_url
        self.tokens: dict[str, str] = {}
        self._clients: dict[str | None, httpx.Client] = {}

    def make_token(self, name: str, role: str = "operator") -> str:
        """A token of this name, which the service itself gives ``role``."""
        with self.product.client() as client:
            answer = client.post("/v1/tokens", json={"name": name, "role": role})
        assert answer.status_code == 201, answer.text
        self.tokens[name] = answer.json()["token"]
        return self.tokens[name]

    @cached_property
    def installation(self) -> str:
        """What the storage in RAM is named after."""
        database = Database(self.product.database_url)
        with database.read() as connection:
            uuid: str = connection.execute(select(installation.c.uuid)).scalar_one()
        database.close()
        return uuid

    def headers(self, who: str | None) -> dict[str, str]:
        return {} if who is None else {"Authorization": f"Bearer {self.tokens[who]}"}

    def client(self, who: str | None) -> httpx.Client:
        """The one that holds the token of this name; None: no token."""
        if who not in self._clients:
            self._clients[who] = httpx.Client(
                base_url=f"{self.product.url}/v3", headers=self.headers(who), timeout=60
            )
        return self._clients[who]

    @asynccontextmanager
    async def other(self, **v3: Any) -> AsyncIterator[httpx.AsyncClient]:
        """A client without a token to ``/v3`` with other settings, which the same workers serve."""
        service = self.service(**v3)
        app = RawPaths(nas_application(service, trusted_tokens()))
        await service.waiters.start()
        try:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://here", timeout=60
            ) as client:
                yield client
        finally:
            await service.waiters.stop()
            service.close()

    def service(self, **v3: Any) -> Service:
        """What an API process of the product has, with other settings."""
        settings = Settings(
            data=self.product.data,
            database={"url": self.product.database_url},
            broker={"url": self._broker_url},
            backends={
                "ram": {"driver": "memory", "capacity": "1T"},
                "fast": {"driver": "file", "path": str(self.product.volumes)},
            },
            v3=v3,
        )
        return Service(settings)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


@pytest.fixture(scope="package")
def nas_product(broker_server: EmbeddedBroker, files_in_ram: Path) -> Iterator[Nas]:
    """The running product with its tokens, shared by all tests."""
    directory = files_in_ram / "nas-product"
    product = Product(directory, broker_url=broker_server.url)
    with product.config.open("a") as config:
        config.write(_V3)
    product.start()
    made = Nas(product, broker_server.url)
    for who in (USER, ADMIN, UBER, NOBODY):
        made.make_token(who)
    yield made
    made.close()
    product.stop()
    shutil.rmtree(directory, ignore_errors=True)


def at_once(number: int, call: Callable[[int], Any]) -> list[Any]:
    """What the calls answered that were all let go at the same moment, in their order."""
    answers: list[Any] = [None] * number
    gate = threading.Barrier(number)

    def one(place: int) -> None:
        gate.wait()
        answers[place] = call(place)

    threads = [threading.Thread(target=one, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def awaited(work: Callable[[], Any]) -> Any:
    """Run an asynchronous test."""
    return asyncio.run(work())
