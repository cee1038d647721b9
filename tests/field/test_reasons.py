"""Why a database cannot be used: each reason has its sentence, without a traceback or a secret."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest

from orchestrator.domain.errors import Unavailable
from orchestrator.store import migrate
from tests.acceptance.conftest import free_port
from tests.rigs.pgbouncer import PgBouncer
from tests.rigs.postgres import Postgres, debian_postgres

SECRET = "s3cret"

#: Who may connect from where, and how. The superuser's is the one that the tests themselves use.
_RULES = """\
local all postgres trust
local all locked scram-sha-256
local all all trust
hostssl all guest 127.0.0.1/32 trust
host all postgres 127.0.0.1/32 trust
"""
#: Connections that are not reserved for the superuser.
_FREE = 3


@pytest.fixture(scope="module")
def strict() -> Iterator[Postgres]:
    """A server with passwords, without TLS, and with few connections."""
    server = debian_postgres(
        listen_addresses="127.0.0.1",
        port=str(free_port()),
        max_connections=str(_FREE + 3),
        superuser_reserved_connections="3",
        max_wal_senders="0",
    )
    server.start()
    (server.home / "data" / "pg_hba.conf").write_text(_RULES)
    server.execute("SELECT pg_reload_conf()")
    server.execute(f"CREATE ROLE locked LOGIN PASSWORD 'not {SECRET}'")
    server.execute("CREATE ROLE guest LOGIN")
    server.create_database("store")
    yield server
    server.stop()


#: What is written into the URL, and what is said.
_REFUSED = {
    "wrong password": (f"locked:{SECRET}@/store?{{local}}", "refuses our user or its password"),
    "no password": ("locked@/store?{local}", "wants a password"),
    "unknown role": ("stranger@/store?{local}", "does not know our user"),
    "no such database": ("postgres@/nothing?{local}", "is not on the server: create it"),
    "no right": ("guest@/store?{local}", "does not give our user a right"),
    "TLS not offered": ("postgres@{tcp}/store?sslmode=require", "offers no TLS"),
    "TLS wanted": ("guest@{tcp}/store", "no connections from here without TLS"),
    "an option for the server": ("postgres@{tcp}/store?sslmode=fast", "a value that libpq does"),
    "nobody listens": ("postgres@127.0.0.1:1/store", "does not listen at the address"),
    "no socket": ("postgres@/store?host=/nowhere", "does not listen at the address"),
    "unknown host": ("postgres@nowhere.invalid/store", "has a host name that is not known"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_why_there_is_no_connection(strict: Postgres, case: str) -> None:
    url, why = _REFUSED[case]
    filled = url.format(
        local=f"host={strict.home}&port={strict.port}", tcp=f"127.0.0.1:{strict.port}"
    )
    with pytest.raises(Unavailable) as refused:
        migrate.upgrade(f"postgresql://{filled}")
    assert why in refused.value.detail
    assert SECRET not in str(refused.value.document())


def test_too_many_connections_are_told(strict: Postgres) -> None:
    url = f"postgresql://guest@/store?host={strict.home}&port={strict.port}"
    with ExitStack() as taken:
        for _ in range(_FREE):
            taken.enter_context(psycopg.connect(url))
        with pytest.raises(Unavailable, match="too many connections: raise max_connections"):
            migrate.check(url)


def test_a_server_that_does_not_answer_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(Unavailable, match="does not answer in time"):
            migrate.check(f"postgresql://me@127.0.0.1:{port}/store?connect_timeout=2")


def test_something_else_that_listens_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        greeter = threading.Thread(target=greet)
        greeter.start()
        port = other.getsockname()[1]
        with pytest.raises(Unavailable, match="not what listens at the address"):
            migrate.check(f"postgresql://me@127.0.0.1:{port}/store")
        greeter.join()


def test_a_pooler_says_what_it_lacks(debian: Postgres, pgbouncer: PgBouncer, name: str) -> None:
    with pytest.raises(Unavailable, match="lets no start-up options through"):
        migrate.check(f"{pgbouncer.url(name)}&options=-c%20work_mem%3D8MB")
    with pytest.raises(Unavailable, match="is not on the server"):
        migrate.check(pgbouncer.url("nothing"))


def test_the_command_line_tells_it_in_one_line(strict: Postgres) -> None:
    url = f"postgresql://locked:{SECRET}@/store?host={strict.home}&port={strict.port}"
    ended = subprocess.run(
        [sys.executable, "-m", "orchestrator", "db", "upgrade"],
        env={**os.environ, "ORCHESTRATOR_DATABASE__URL": url},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == Unavailable.exit_status
    assert ended.stderr.splitlines() == [
        "error: the database refuses our user or its password: correct database.url; then try "
        "again (unavailable)"
    ]
