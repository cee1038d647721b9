"""Fixtures that hand each test a broker and an empty database, both real."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from orchestrator.embedded.broker import EmbeddedBroker, redis_client_url
from tests.rigs.postgres import Postgres

_database_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=["sqlite", "postgresql", "both"],
        default="both",
        help="on which database the tests that use one run (default: both)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = config.getoption("database")
    if wanted == "both":
        return
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        callspec = getattr(item, "callspec", None)
        kind = callspec.params.get("database_url", wanted) if callspec else wanted
        (kept if kind == wanted else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole run, started when the first test asks for it."""
    server = Postgres()
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of this test's own, once for each kind.

    A test for one kind only: ``@pytest.mark.parametrize("database_url", ["postgresql"],
    indirect=True)``.
    """
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'orchestrator.sqlite'}"
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    name = f"test_{next(_database_numbers)}"
    server.create_database(name)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture(scope="session")
def broker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """A broker for the whole run."""
    broker = EmbeddedBroker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def broker_url(broker_server: EmbeddedBroker) -> str:
    """The URL, as Celery writes it, of a broker with nothing in it."""
    with redis.Redis.from_url(redis_client_url(broker_server.url)) as client:
        client.flushall()
    return broker_server.url
