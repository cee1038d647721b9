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
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from psycopg import sql
from sqlalchemy import URL, Engine, create_engine

from orchestrator.embedded.broker import EmbeddedBroker, redis_client_url
from orchestrator.store import database as connections
from orchestrator.store import migrate
from tests.rigs.namespaces import have_own_mounts
from tests.rigs.pgbouncer import PgBouncer, pgbouncer_before
from tests.rigs.postgres import Postgres, debian_postgres
from tests.rigs.rooms import room

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


@pytest.fixture(scope="session", autouse=True)
def _statements_are_compiled_once() -> Iterator[None]:
    """Databases of one server share what SQLAlchemy knows of it.

    It compiles each statement once for each dialect, which would be most of what a database does
    that lives for one test.
    """
    known: dict[Any, Engine] = {}

    def create(url: URL, **options: Any) -> Engine:
        made = create_engine(url, **options)
        server = (url.get_backend_name(), url.host, url.query.get("host"))
        first = known.get(server)
        if first is None or first.dialect.server_version_info is None:
            known[server] = made  # that one has never been connected
        else:
            made.dialect, made._compiled_cache = first.dialect, first._compiled_cache
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "create_engine", create)
        yield


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
    into_one_file(path)
    return path


def into_one_file(database: Path) -> None:
    """Leave nothing of a SQLite database in a log beside it, so that the file can be copied."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: Postgres | PgBouncer) -> str:
    """The name of a PostgreSQL database with the schema in it, to be copied."""
    postgres_server.create_database("migrated")
    migrate.upgrade(postgres_server.url("migrated"))
    return "migrated"


@pytest.fixture(scope="session")
def files_in_ram(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of this run, for databases that need not wait for a disk."""
    with room("orchestrator-tests", tmp_path_factory) as path:
        yield path


@pytest.fixture
def migrated_url(request: pytest.FixtureRequest, database_kind: str) -> Iterator[str]:
    """The URL of a database of this test's own with the schema in it, once for each kind."""
    kind = "sqlite" if database_kind == "sqlite" else "postgres"
    with copy_of(request.getfixturevalue(f"migrated_{kind}"), request) as url:
        yield url


@contextmanager
def copy_of(template: Path | str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database that is a copy of a file, or of another one of the server."""
    name = f"test_{next(_database_numbers)}"
    own = uuid.uuid4().hex  # storage in RAM is named after the installation
    if isinstance(template, Path):
        directory: Path = request.getfixturevalue("files_in_ram") / name
        directory.mkdir()
        copy = shutil.copy(template, directory / "orchestrator.sqlite")
        with closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute("UPDATE installation SET uuid = ?", (own,))
        yield f"sqlite:///{copy}"
        shutil.rmtree(directory, ignore_errors=True)
    else:
        server: Postgres | PgBouncer = request.getfixturevalue("postgres_server")
        server.create_database(name, template)
        renamed = sql.SQL("UPDATE installation SET uuid = {}").format(sql.Literal(own))
        server.execute(renamed, name)
        yield server.url(name)
        server.drop_database(name)
