"""Fixtures of installed servers. Without them the tests are skipped, and say what is missing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.store import migrate
from tests.acceptance.conftest import Product
from tests.rigs.pgbouncer import PgBouncer, pgbouncer_before
from tests.rigs.postgres import Postgres, debian_postgres

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("field")


@pytest.fixture(scope="session")
def debian() -> Iterator[Postgres]:
    """Debian's PostgreSQL with the settings it is installed with: it compiles statements (JIT)."""
    server = debian_postgres()
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pgbouncer(debian: Postgres) -> Iterator[PgBouncer]:
    """pgbouncer in transaction mode before that server."""
    pooler = pgbouncer_before(debian)
    pooler.start()
    yield pooler
    pooler.stop()


@pytest.fixture(params=["direct", "pgbouncer"])
def server(request: pytest.FixtureRequest) -> Postgres | PgBouncer:
    """The server itself, and the way through the pooler."""
    found: Postgres | PgBouncer = request.getfixturevalue(
        "debian" if request.param == "direct" else request.param
    )
    return found


@pytest.fixture
def name(debian: Postgres) -> Iterator[str]:
    """The name of an empty database of this test's own."""
    made = f"field_{next(_numbers)}"
    debian.create_database(made)
    yield made
    debian.drop_database(made)


@pytest.fixture
def migrated(debian: Postgres, name: str) -> str:
    """The same with the schema in it."""
    migrate.upgrade(debian.url(name))
    return name


@pytest.fixture
def bring_up(tmp_path: Path) -> Iterator[Callable[..., Product]]:
    """Brings the product up with a database and perhaps a broker, and down after the test."""
    made: list[Product] = []

    def start(database_url: str | None = None, broker_url: str | None = None) -> Product:
        product = Product(tmp_path / f"product-{len(made)}", database_url, broker_url)
        made.append(product)
        product.start()
        return product

    yield start
    for product in made:
        if product.process is not None:
            product.stop()
