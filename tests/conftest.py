"""Fixtures that hand each test a broker and an empty database, both real."""

import itertools
import logging
import os
import shutil
import signal
import sqlite3
import sys
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import structlog
from sqlalchemy import update

from orchestrator.embedded.broker import EmbeddedBroker, redis_client_url
from orchestrator.store import migrate
from orchestrator.store.database import Database
from orchestrator.store.tables import installation
from tests.rigs.namespaces import have_own_mounts
from tests.rigs.pgbouncer import PgBouncer, pgbouncer_before
from tests.rigs.postgres import Postgres, debian_postgres

_database_numbers = itertools.count(1)
#: What `structlog.get_logger` returns.
_LOGGER = type(structlog.get_logger())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=["sqlite", "postgresql", "both"],
        default="both",
        help="on which database the tests that use one run (default: both)",
    )
    parser.addoption(
        "--server",
        choices=["wheel", "debian", "pgbouncer"],
        default="wheel",
        help="which PostgreSQL that is: a wheel's, Debian's, or that one behind pgbouncer",
    )


def pytest_configure() -> None:
    """Let children be interrupted where this run is in the background, and find programs.

    A shell makes its background jobs ignore SIGINT, and programs they start inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Where the programs are that make file systems; not on everyone's path.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    if "PYTEST_XDIST_WORKER" in os.environ:
        have_own_mounts()


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """What a test has configured for the logs of this process is not there for the next one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if not structlog.is_configured():
        return
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)
    # Loggers that were used meanwhile remember how it was configured.
    for module in list(sys.modules.values()):
        log = getattr(module, "log", None)
        if isinstance(log, _LOGGER):
            vars(log).pop("bind", None)


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _take_turns(items)
    wanted = config.getoption("database")
    if wanted == "both":
        return
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        callspec = getattr(item, "callspec", None)
        kind = callspec.params.get("database_kind", wanted) if callspec else wanted
        (kept if kind == wanted else dropped).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


def _take_turns(items: list[pytest.Item]) -> None:
    """Of tests marked ``either_database`` one half runs at once, the other with the slow ones.

    What they try is the storage, or what users see, and hardly the database: for one test it is
    SQLite first, for the next PostgreSQL.
    """
    siblings: dict[str, dict[str, pytest.Item]] = defaultdict(dict)
    for item in items:
        callspec = getattr(item, "callspec", None)
        kind = callspec.params.get("database_kind") if callspec else None
        if kind is not None and item.get_closest_marker("either_database"):
            siblings[item.nodeid.replace(kind, "")][kind] = item
    for name, kinds in siblings.items():
        if len(kinds) > 1:
            later = sorted(kinds)[zlib.crc32(name.encode()) % len(kinds)]
            kinds[later].add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest) -> Iterator[Postgres | PgBouncer]:
    """A PostgreSQL server for the whole run, started when the first test asks for it."""
    wanted = request.config.getoption("server")
    # Most of what a database of each test's own costs is the wait for the disk.
    server = Postgres(in_ram=True) if wanted == "wheel" else debian_postgres()
    server.start()
    if wanted == "pgbouncer":
        pooler = pgbouncer_before(server)
        pooler.start()
        yield pooler
        pooler.stop()
    else:
        yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_kind(request: pytest.FixtureRequest) -> str:
    """Runs a test once for each kind of database.

    For one kind only: ``@pytest.mark.parametrize("database_kind", ["postgresql"],
    indirect=True)``.
    """
    kind: str = request.param
    return kind


@pytest.fixture
def database_url(
    request: pytest.FixtureRequest, database_kind: str, tmp_path: Path
) -> Iterator[str]:
    """The URL of an empty database of this test's own."""
    if database_kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'orchestrator.sqlite'}"
        return
    server: Postgres | PgBouncer = request.getfixturevalue("postgres_server")
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


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with the schema in it, to be copied."""
    path = tmp_path_factory.mktemp("schema") / "migrated.sqlite"
    migrate.upgrade(f"sqlite:///{path}")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: Postgres | PgBouncer) -> str:
    """The name of a PostgreSQL database with the schema in it, to be copied."""
    postgres_server.create_database("migrated")
    migrate.upgrade(postgres_server.url("migrated"))
    return "migrated"


@pytest.fixture
def migrated_url(
    request: pytest.FixtureRequest, database_kind: str, tmp_path: Path
) -> Iterator[str]:
    """The URL of a database of this test's own with the schema in it, once for each kind."""
    if database_kind == "sqlite":
        copy = tmp_path / "orchestrator.sqlite"
        shutil.copy(request.getfixturevalue("migrated_sqlite"), copy)
        yield _own_installation(f"sqlite:///{copy}")
        return
    server: Postgres | PgBouncer = request.getfixturevalue("postgres_server")
    name = f"test_{next(_database_numbers)}"
    server.create_database(name, template=request.getfixturevalue("migrated_postgres"))
    yield _own_installation(server.url(name))
    server.drop_database(name)


def _own_installation(url: str) -> str:
    """Tell a copied schema from its template: storage in RAM is named after the installation."""
    database = Database(url, pool_size=1)
    with database.write() as connection:
        connection.execute(update(installation).values(uuid=uuid.uuid4().hex))
    database.close()
    return url
