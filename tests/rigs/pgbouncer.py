"""pgbouncer in transaction mode before a test server, configured as its package configures it."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import LiteralString
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from orchestrator.embedded.process import die_with_parent
from tests.rigs.postgres import START_TIMEOUT, STOP_TIMEOUT, Postgres, unprivileged_identity

_CONFIG = """\
[databases]
* = host={server} port=5432

[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {home}
auth_type = trust
auth_file = {home}/users
pool_mode = transaction
default_pool_size = 20
max_client_conn = 500
admin_users = postgres
logfile = {home}/log
"""


def pgbouncer_before(server: Postgres) -> PgBouncer:
    """One, not started; skips the test where it is not installed."""
    if shutil.which("pgbouncer") is None:
        pytest.skip("pgbouncer is not installed: apt install pgbouncer")
    return PgBouncer(server)


class PgBouncer:
    """Stands before ``server`` and is used in its place; `stop` leaves the server running."""

    def __init__(self, server: Postgres) -> None:
        self.server = server
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        identity = unprivileged_identity()
        self._directory = home = Path(tempfile.mkdtemp(prefix="orchestrator-pgbouncer-"))
        (home / "users").write_text('"postgres" ""\n')
        config = home / "config"
        config.write_text(_CONFIG.format(server=self.server.home, home=home))
        if identity:
            os.chown(home, identity["user"], identity["group"])
        self._process = subprocess.Popen(
            ["pgbouncer", "--quiet", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=home,
            start_new_session=True,
            preexec_fn=functools.partial(die_with_parent, signal.SIGTERM),
            **identity,
        )
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self._connect("pgbouncer").close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"pgbouncer did not start: {error}") from None
                time.sleep(0.01)

    def stop(self) -> None:
        """End it, and remove its directory."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()  # its immediate shutdown
            process.wait(STOP_TIMEOUT)
        if self._directory is not None:
            shutil.rmtree(self._directory)
            self._directory = None

    def url(self, dbname: str) -> str:
        """The SQLAlchemy URL of one of the server's databases, by way of pgbouncer."""
        directory = quote(str(self._directory))
        return f"postgresql+psycopg://postgres@/{quote(dbname)}?host={directory}&port=6432"

    def create_database(self, name: str, template: str = "template1") -> None:
        """Make a database on the server, as `Postgres.create_database` does."""
        self._let_go_of(template)
        self.server.create_database(name, template)

    def drop_database(self, name: str) -> None:
        """Drop a database of the server, whoever is still connected."""
        self.server.drop_database(name)

    def execute(self, statement: LiteralString | sql.Composed, dbname: str = "postgres") -> None:
        """Execute a statement on the server as the superuser."""
        self.server.execute(statement, dbname)

    def _let_go_of(self, dbname: str) -> None:
        """Close the connections to a database, which it would keep for a while."""
        self.server.execute(
            sql.SQL(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = {}"
            ).format(sql.Literal(dbname))
        )

    def _connect(self, dbname: str) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self._directory), port=6432, dbname=dbname, user="postgres", autocommit=True
        )
