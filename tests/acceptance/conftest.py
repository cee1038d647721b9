"""The whole product, brought up by its own command, for tests that use it as users do."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.rigs.commands import run_command

#: However slow the machine is.
START_SECONDS = 180.0
#: For clients of plain HTTP: to read authorities that they do not need takes longer than a call.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_CONFIG = """\
[worker]
lease_seconds = 6
heartbeat_seconds = 1

[transfer]
import_from = ["{exchange}"]
export_to = ["{exchange}"]

[backends.fast]
driver = "file"
path = "{volumes}"

[backends.ram]
driver = "memory"
capacity = "1T"
"""


class Product:
    """One ``orchestrator up``, with the backends ``fast`` (file) and ``ram`` (memory)."""

    def __init__(
        self, directory: Path, database_url: str | None = None, broker_url: str | None = None
    ) -> None:
        self.data = directory / "data"
        self.volumes = directory / "volumes"
        self.volumes.mkdir(parents=True)
        #: Where images are imported from and exported to.
        self.exchange = directory / "exchange"
        self.exchange.mkdir()
        self.config = directory / "orchestrator.toml"
        self.config.write_text(_CONFIG.format(volumes=self.volumes, exchange=self.exchange))
        self.log = directory / "up.log"
        self.url = f"http://127.0.0.1:{free_port()}"
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR")
        }
        #: What a shell on this machine would have.
        self.env = {
            **kept,
            "ORCHESTRATOR_URL": self.url,
            "XDG_STATE_HOME": str(directory / "state"),
            "XDG_DATA_HOME": str(directory / "share"),
        }
        self._up_env = dict(self.env)
        if database_url is not None:
            self._up_env["ORCHESTRATOR_DATABASE__URL"] = database_url
        if broker_url is not None:
            self._up_env["ORCHESTRATOR_BROKER__URL"] = broker_url
        #: For tests that look into the database, or tell the memory driver to fail.
        self.database_url = database_url or f"sqlite:///{self.data / 'orchestrator.db'}"
        self.process: subprocess.Popen[bytes] | None = None
        #: The command that runs Python for the service.
        self.python = [sys.executable]

    @property
    def token(self) -> str:
        """The local token."""
        return (self.data / "token").read_text().strip()

    @property
    def host(self) -> str:
        """The name this machine goes by."""
        return socket.gethostname()

    def client(self) -> httpx.Client:
        """A client that holds the local token."""
        return httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=90,
            verify=PLAIN,
        )

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return run_command(arguments, {**self.env, **more})

    def start(self) -> None:
        """Bring it up and wait until it is ready."""
        listen = self.url.removeprefix("http://")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(*self.python, "-m", "orchestrator", "up", "--data", str(self.data)),
                    *("--listen", listen, "--config", str(self.config), "--workers", "2"),
                ],
                env=self._up_env,
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise AssertionError(f"'up' ended:\n{self.log.read_text()}")
            try:
                ready = httpx.get(f"{self.url}/readyz", verify=PLAIN).status_code == 200
                if ready and (self.data / "endpoint.json").exists():
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"'up' did not become ready:\n{self.log.read_text()}")

    def stop(self) -> int:
        """Take it down as Ctrl-C does; its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def children(self) -> dict[str, list[int]]:
        """Process ids of the parts, by the command each was started with."""
        assert self.process is not None
        found: dict[str, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal():
                continue
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if int(stat[1]) == self.process.pid and stat[0] != "Z":
                words = [word.decode() for word in command if word]
                if not words:  # it is about to end
                    continue
                kind = words[3] if "orchestrator" in words[:3] else "broker"
                found.setdefault(kind, []).append(int(entry.name))
        return found


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="package", params=["sqlite", "postgresql"])
def product_kind(request: pytest.FixtureRequest) -> str:
    """Brings the product up once on each kind of database."""
    kind: str = request.param
    return kind


@pytest.fixture(scope="package")
def product(
    request: pytest.FixtureRequest, product_kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    """The running product, shared by all tests that only use it."""
    yield from _running(request, product_kind, tmp_path_factory.mktemp("product"))


@pytest.fixture(params=["sqlite", "postgresql"])
def own_product(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Product]:
    """A product of this test's own, which it may break."""
    yield from _running(request, request.param, tmp_path)


def _running(request: pytest.FixtureRequest, kind: str, directory: Path) -> Iterator[Product]:
    server, name, url = None, "", None
    if kind == "postgresql":
        server = request.getfixturevalue("postgres_server")
        name = f"product_{free_port()}"
        server.create_database(name)
        url = server.url(name)
    made = Product(directory, url)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        if server is not None:
            server.drop_database(name)
        shutil.rmtree(directory, ignore_errors=True)
