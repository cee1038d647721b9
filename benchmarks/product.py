"""The product under test: one ``orchestrator up`` with two workers and its default settings."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import func, select

from benchmarks.lean_client import LeanClient
from orchestrator.embedded.broker import redis_client_url
from orchestrator.embedded.process import die_with_parent
from orchestrator.store.database import Database
from orchestrator.store.tables import event_commits, installation
from workers.backends.memory.store import erase

WORKERS = 2

#: Backends: in RAM, in RAM and slow, and files.
RAM, SLOW, FILES = "ram", "slow", "files"
#: Seconds that a change takes on the slow one.
SLOW_SECONDS = 6

_SIZE = 2**20
#: What the processes of a service are called on their command lines.
_PARTS = ("api", "worker", "scheduler")
_START_SECONDS = 180.0
_SETTLE_SECONDS = 120.0

_CONFIG = f"""\
[backends.{RAM}]
driver = "memory"

[backends.{SLOW}]
driver = "memory"
delay = {SLOW_SECONDS}

[backends.{FILES}]
driver = "file"
path = "{{files}}"
"""


class Product:
    """A running service, and what the experiments ask of it."""

    def __init__(
        self, directory: Path, database_url: str | None = None, workers: int = WORKERS
    ) -> None:
        self._workers = workers
        self._data = directory / "data"
        self.files = directory / "files"
        self.files.mkdir(parents=True)
        self._config = directory / "orchestrator.toml"
        self._config.write_text(_CONFIG.format(files=self.files))
        self._log = directory / "up.log"
        self.database_url = database_url or f"sqlite:///{self._data / 'orchestrator.db'}"
        self.address = ("127.0.0.1", 0)
        self._process: subprocess.Popen[bytes] | None = None
        self._names = itertools.count(1)

    def start(self) -> None:
        """Bring it up; return when requests are served. May be called again after `stop`."""
        self.address = ("127.0.0.1", _free_port())
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("ORCHESTRATOR")
        }
        words = {
            "--data": str(self._data),
            "--listen": ":".join(map(str, self.address)),
            "--config": str(self._config),
            "--workers": str(self._workers),
        }
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", "up", *itertools.chain(*words.items())],
                env={**kept, "ORCHESTRATOR_DATABASE__URL": self.database_url},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=functools.partial(die_with_parent, signal.SIGTERM),
            )
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """Take it down; harmless when it is not running."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(60)

    def erase(self) -> None:
        """Take what its memory backends held out of RAM."""
        with _opened(self.database_url) as database, database.read() as connection:
            installed = connection.execute(select(installation.c.uuid)).scalar_one()
        for backend in (RAM, SLOW):
            erase(backend, installed)

    @property
    def token(self) -> str:
        """The local token."""
        return (self._data / "token").read_text().strip()

    @property
    def data(self) -> Path:
        """Its data directory."""
        return self._data

    @property
    def log(self) -> Path:
        """What its processes have written."""
        return self._log

    @property
    def chain_key(self) -> bytes:
        """The key of its chain, which is there once it was started."""
        return (self._data / "audit.key").read_text().strip().encode()

    def client(self) -> LeanClient:
        """A connection of the caller's own."""
        return LeanClient(self.address, self.token)

    # -- work -------------------------------------------------------------------------------

    def job(self, backend: str = RAM) -> bytes:
        """The body of a request for one new volume."""
        return json.dumps(self._creates(backend, 1)[0]).encode()

    def batch(self, count: int, backend: str = RAM) -> bytes:
        """The body of a request for a batch of new volumes."""
        return json.dumps({"jobs": self._creates(backend, count)}).encode()

    def warm_up(self) -> None:
        """Do a little of everything, so that what is measured is not the first."""
        client = self.client()
        for _ in range(3):
            client.finish("/v1/batches", self.batch(300))
        for _ in range(30):
            client.finish("/v1/jobs", self.job())
        client.close()
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is left to be done: the events have got their numbers, too."""
        until = time.monotonic() + _SETTLE_SECONDS
        waiting = select(func.count()).where(event_commits.c.base.is_(None))
        with _opened(self.database_url) as database:
            while True:
                with database.read() as connection:
                    left: int = connection.execute(waiting).scalar_one()
                if not left:
                    return
                if time.monotonic() > until:
                    told = self._log.read_text()[-4000:]
                    raise RuntimeError(f"the events of {left} commits have no number yet:\n{told}")
                time.sleep(0.05)

    def batch_seconds(self, count: int, backend: str = RAM) -> float:
        """Seconds from submitting a batch to its end."""
        client, body = self.client(), self.batch(count, backend)
        begun = time.perf_counter()
        client.finish("/v1/batches", body)
        seconds = time.perf_counter() - begun
        client.close()
        self.settle()
        return seconds

    def accept_seconds(self, count: int) -> float:
        """Seconds from submitting a batch until it is accepted; returns when it has ended."""
        client, body = self.client(), self.batch(count)
        begun = time.perf_counter()
        accepted = client.accept("/v1/batches", body)
        seconds = time.perf_counter() - begun
        client.get(f"/v1/batches/{json.loads(accepted)['id']}/wait?timeout=300")
        client.close()
        self.settle()
        return seconds

    def lane_seconds(self, count: int) -> float:
        """Seconds from submitting a batch whose jobs all wait for one volume, to its end."""
        client = self.client()
        [volume] = self._creates(RAM, 1)
        client.finish("/v1/jobs", json.dumps(volume).encode())
        look = {"action": "volume.verify", "backend": RAM, "volume": volume["volume"]}
        body = json.dumps({"jobs": [look] * count}).encode()
        begun = time.perf_counter()
        accepted = json.loads(client.accept("/v1/batches", body))
        path = f"/v1/batches/{accepted['id']}/wait?timeout=300"
        while client.get(path)["finished_at"] is None:
            pass
        seconds = time.perf_counter() - begun
        client.close()
        self.settle()
        return seconds

    def processes(self) -> dict[int, str]:
        """The service's processes: their ids, and what each is."""
        assert self._process is not None  # noqa: S101 - it was started
        found = {self._process.pid: "up"}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                words = (entry / "cmdline").read_bytes().decode().split("\0")
            except (OSError, ValueError):
                continue
            if parent == self._process.pid:
                named = (name for name in _PARTS if name in words)
                found[int(entry.name)] = next(named, "broker")
        return found

    def broker(self) -> redis.Redis:
        """A connection to its broker."""
        worker = next(process for process, name in self.processes().items() if name == "worker")
        told = Path(f"/proc/{worker}/environ").read_bytes().decode().split("\0")
        named = dict(one.split("=", 1) for one in told if "=" in one)
        return redis.Redis.from_url(redis_client_url(named["ORCHESTRATOR_BROKER__URL"]))

    def memory_mib(self) -> dict[str, float]:
        """Resident memory of the service's processes, by what they are; of workers, the most."""
        found: dict[str, float] = {}
        for process, name in self.processes().items():
            if name in _PARTS:
                found[name] = max(found.get(name, 0.0), resident_mib(process))
        return found

    def latencies(self, count: int) -> list[float]:
        """Seconds from submitting to the end, of single jobs one after the other."""
        client = self.client()
        bodies = [self.job() for _ in range(count)]
        client.finish("/v1/jobs", self.job())
        taken: list[float] = []
        for body in bodies:
            begun = time.perf_counter()
            client.finish("/v1/jobs", body)
            taken.append(time.perf_counter() - begun)
        client.close()
        self.settle()
        return taken

    def _creates(self, backend: str, count: int) -> list[dict[str, Any]]:
        number = next(self._names)
        return [
            {
                "action": "volume.create",
                "backend": backend,
                "volume": f"set{number}/vol{place:06d}",
                "params": {"size_bytes": _SIZE},
            }
            for place in range(count)
        ]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        url = "http://{}:{}/readyz".format(*self.address)
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until and process.poll() is None:
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own
                    if answer.status == 200 and (self._data / "token").exists():
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        raise RuntimeError(f"the service did not come up:\n{self._log.read_text()}")


def resident_mib(process: int) -> float:
    """Resident memory of a process; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def _opened(url: str) -> Iterator[Database]:
    database = Database(url, pool_size=1)
    try:
        yield database
    finally:
        database.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
