"""The whole product under load, brought up by its own command, and what is known of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select

from orchestrator.store.database import Database
from orchestrator.store.tables import installation, jobs
from orchestrator.store.targets import JOB
from tests.acceptance.conftest import Product
from tests.chaos.cases import ANYBODY, BACKEND, Request
from tests.chaos.model import Model
from tests.chaos.processes import until
from tests.chaos.storage import FileStorage, MemoryStorage, Storage, Stray
from tests.chaos.world import CAPACITY, policy_of, watching_database

#: Short, since the tests wait for them.
LEASE_SECONDS = 3
IDLE_SECONDS = 1

_CONFIG = """\
[database]
idle_seconds = {idle}

[worker]
lease_seconds = {lease}
heartbeat_seconds = 0.5
claim_seconds = {look}

[retry]
first_seconds = 0.2
most_seconds = 1
max_attempts = 50

[scheduler]
relay_seconds = 1

[backends.{backend}]
driver = "{driver}"
{options}
"""


class Shaken(Product):
    """One ``orchestrator up`` that will be broken, and what must be there in the end."""

    def __init__(
        self,
        directory: Path,
        driver: str,
        database_url: str | None,
        *,
        delay: float = 0.0,
        look_seconds: float = 1.0,
        volumes: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        super().__init__(directory, database_url)
        self.volumes = volumes or self.volumes
        self.driver_name = driver
        self.directory = directory
        options = (
            f"capacity = {CAPACITY}\ndelay = {delay}"
            if driver == "memory"
            else f'path = "{self.volumes}"'
        )
        self.config.write_text(
            _CONFIG.format(
                idle=IDLE_SECONDS,
                lease=LEASE_SECONDS,
                look=look_seconds,
                backend=BACKEND,
                driver=driver,
                options=options,
            )
        )
        self.failpoints = directory / "failpoints"
        self.failpoints.mkdir()
        self._up_env["ORCHESTRATOR_FAILPOINTS"] = str(self.failpoints)
        self._up_env |= env or {}
        self.model = Model()
        self.asked: list[tuple[int, Request]] = []
        self._played = 0
        self.event_number = 0
        #: Whether it came up, so that there is something to look at and to erase.
        self._known = False
        self.database: Database
        self.storage: Storage

    def start(self) -> None:
        """Bring it up, and look at its storage; a person has put something there."""
        super().start()
        self.database = watching_database(self.database_url)
        with self.database.read() as connection:
            uuid = connection.execute(select(installation.c.uuid)).scalar_one()
        self.storage = (
            MemoryStorage(BACKEND, uuid, CAPACITY)
            if self.driver_name == "memory"
            else FileStorage(BACKEND, uuid, self.volumes)
        )
        self._known = True
        for number in range(3):
            self.storage.put(Stray(f"person{number}", b"somebody needs this" * 100))
        if self.storage.has_policies:
            self.storage.put_policy("person", [ANYBODY])

    def end(self) -> None:
        """Take it down for good, and what it kept in RAM with it."""
        try:
            if self.process is not None:
                self.stop()
        finally:
            self._forget()

    def _forget(self) -> None:
        if self._known:
            self.storage.erase()
            self.database.close()

    def kill(self, kind: str, which: int = 0) -> int:
        """SIGKILL to one of its parts, which is started again; its process id, 0 if none."""
        pids = sorted(self.children().get(kind, []))
        if not pids:
            return 0
        pid = pids[which % len(pids)]
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return 0  # it has just died by itself
        return pid

    def broker_socket(self) -> Path:
        """Where the embedded broker listens, as its title among the processes says."""
        # It may just have been killed, and not have been started again.
        return Path(until(self._broker_listens, "the broker is there"))

    def _broker_listens(self) -> str:
        try:
            [pid] = self.children().get("broker", [])
            title = Path(f"/proc/{pid}/cmdline").read_text()
        except (OSError, ValueError):
            return ""
        return title.partition("unixsocket:")[2].partition("\0")[0]

    def settle(self) -> None:
        """Play what has ended since into the model, in the order of submission."""
        self.asked.sort(key=lambda one: one[0])
        rest = self.asked[self._played :]
        rows: dict[int, Any] = {}
        with self.database.read() as connection:
            for place in range(0, len(rest), 500):
                ids = [job_id for job_id, _ in rest[place : place + 500]]
                query = select(*JOB).where(jobs.c.id.in_(ids))
                rows |= {row.id: row for row in connection.execute(query)}
        for job_id, request in rest:
            row = rows.get(job_id)
            if row is None or row.finished_at is None:
                break
            self._played += 1
            if row.state == "succeeded":
                self.model.play(request, row.volume_id, policy_of(row))

    def wait_for_the_end(self) -> None:
        """Everything that was accepted has ended, and its history is complete."""
        until(lambda: not self.unfinished(), "every accepted job ends")
        self.settle()

    def unfinished(self) -> int:
        """How many jobs have not ended."""
        with self.database.read() as connection:
            query = select(jobs.c.id).where(jobs.c.finished_at.is_(None))
            return len(connection.execute(query).all())


def accept(
    product: Shaken, http: httpx.Client, request: Request, key: str, path: str = "/v1/jobs"
) -> Any:
    """Submit until there is an answer, with one key, as a careful client does."""

    def answered() -> httpx.Response | None:
        try:
            answer = http.post(path, json=request, headers={"Idempotency-Key": key})
        except httpx.HTTPError:
            return None
        return None if answer.status_code >= 500 else answer

    answer: httpx.Response = until(answered, f"{request.get('action', path)} is answered")
    if answer.status_code >= 300:
        raise AssertionError(f"{request} was refused: {answer.text}")
    return answer.json()


def names_of(asked: Sequence[tuple[int, Request]]) -> set[str]:
    """Every name that jobs were about."""
    found: set[str] = set()
    for _, request in asked:
        params = request.get("params") or {}
        found |= {name for name in (request.get("volume"), params.get("new_name")) if name}
    return found
