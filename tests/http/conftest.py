"""``orchestrator api`` alone, on a database with a token for each role."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from orchestrator import tokens
from orchestrator.domain.states import Role
from orchestrator.embedded.broker import EmbeddedBroker
from orchestrator.store.database import Database
from orchestrator.store.tables import events
from tests.acceptance.conftest import PLAIN, START_SECONDS, free_port

_CONFIG = """\
[backends.ram]
driver = "memory"
capacity = "1T"
"""


class Api:
    """One process that serves HTTP."""

    def __init__(self, directory: Path, migrated: Path, broker_url: str, config: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copy(migrated, directory / "orchestrator.db")
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / "api.log"
        self._config = directory / "orchestrator.toml"
        self._config.write_text(f'data = "{directory}"\n[broker]\nurl = "{broker_url}"\n{config}')
        self.database = Database(f"sqlite:///{directory / 'orchestrator.db'}", pool_size=2)
        #: The token of each role.
        self.tokens = {role: self.new_token(str(role), role) for role in Role}
        self.process: subprocess.Popen[bytes] | None = None

    def new_token(self, name: str, role: Role) -> str:
        """A token of this name."""
        with self.database.write() as connection:
            return tokens.create(connection, name, role, "test")[1]

    def start(self, address: str) -> Api:
        """Start it, and wait until it is ready."""
        kept = {n: v for n, v in os.environ.items() if not n.startswith("ORCHESTRATOR")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "orchestrator", "api"),
                    *("--config", str(self._config), "--listen", f"{address}:{self.port}"),
                ],
                env=kept,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert self.process.poll() is None, self.log.read_text()
            try:
                with self.connect():
                    return self
            except OSError:
                time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def stop(self) -> None:
        """Take it down."""
        self.database.close()
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)

    def client(self, role: Role | None = Role.ADMIN, **options: Any) -> httpx.Client:
        """A client with the token of a role, or without one."""
        headers = {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}
        ours = {"base_url": self.url, "headers": headers, "timeout": 60, "verify": PLAIN}
        return httpx.Client(**{**ours, **options})

    def connect(self) -> socket.socket:
        """A connection, to write to what no client would."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def memory(self) -> int:
        """Bytes of the most memory that it has had since `forget_memory`."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        """The events of a kind, numbered or not."""
        with self.database.read() as connection:
            found = connection.execute(select(events).where(events.c.kind == kind)).mappings()
            return [dict(row) for row in found]

    def forget_memory(self) -> None:
        """Begin to measure anew."""
        assert self.process is not None
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


@pytest.fixture(scope="package")
def begin_api(
    migrated_sqlite: Path, broker_server: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Api]]:
    """Starts a service with these further settings; all are stopped at the end."""
    begun: list[Api] = []

    def begin(
        config: str = "", *, address: str = "127.0.0.1", broker_url: str = broker_server.url
    ) -> Api:
        directory = tmp_path_factory.mktemp("api")
        made = Api(directory, migrated_sqlite, broker_url, _CONFIG + config)
        begun.append(made)
        return made.start(address)

    yield begin
    for api in begun:
        api.stop()
        shutil.rmtree(api.directory, ignore_errors=True)


@pytest.fixture(scope="package")
def api(begin_api: Callable[..., Api]) -> Api:
    """A service that tests share which change nothing for others."""
    return begin_api("")


@pytest.fixture(scope="package")
def hasty(begin_api: Callable[..., Api]) -> Api:
    """A service that waits for nobody, and serves few."""
    return begin_api("[api]\nrequest_seconds = 0.5\nmax_connections = 8\n")


def one_answer(connection: socket.socket) -> bytes:
    """One answer, whole; what it is to a HEAD is not known here."""
    told = b""
    while b"\r\n\r\n" not in told:
        piece = connection.recv(65536)
        assert piece, told
        told += piece
    head, _, body = told.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    missing = int(length[1]) - len(body) if length else 0
    while missing > 0:
        piece = connection.recv(missing)
        assert piece, told
        told, missing = told + piece, missing - len(piece)
    return told


def whole_answer(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    told = b""
    while piece := connection.recv(65536):
        told += piece
    return told
