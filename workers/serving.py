"""The backends this worker serves: their drivers, their rows, and whether they can be used."""

from __future__ import annotations

import importlib
import uuid
from typing import Any

import structlog
from sqlalchemy import Connection, select, update

from orchestrator.domain.errors import IdentityMismatch, Problem
from orchestrator.inventory import promises
from orchestrator.inventory.backends import configure, ids_of
from orchestrator.inventory.changes import apply
from orchestrator.jobs.wakeups import backend_queue
from orchestrator.settings import Settings
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import backends, installation
from workers.backends.interface import Driver
from workers.execution.refresh import look_at
from workers.storage_leases import StorageLeases, this_process

log = structlog.get_logger(__name__)


class _Looking:
    """The `Call` of a look at a backend, on behalf of no job."""

    job_id = 0
    token = "0"  # noqa: S105 - no secret
    fence = 0

    def checkpoint(self) -> None:
        """A look may always go on."""

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        """Nobody waits for it."""

    def seconds_left(self) -> float:
        return 60.0


class Serving:
    """Drivers by backend id, made once and shared by the threads."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        served = settings.served_backends()

        def register(connection: Connection) -> tuple[dict[str, int], str]:
            configure(connection, settings.backends)
            ids = ids_of(connection, list(served))
            return ids, connection.execute(select(installation.c.uuid)).scalar_one()

        ids, installation_id = database.transact(register)
        self._unusable: set[int] = set()
        self.names = {ids[name]: name for name in served}
        self._by_queue = {backend_queue(name): id_ for id_, name in self.names.items()}
        self._max_jobs = {
            backend_queue(name): backend.max_jobs
            for name, backend in served.items()
            if backend.max_jobs is not None
        }
        self.drivers: dict[int, Driver] = {
            ids[name]: _make(name, backend.spec.target, backend.options, installation_id)
            for name, backend in served.items()
        }
        self.leases = StorageLeases(
            database,
            self.drivers,
            self.names,
            installation=installation_id,
            me=this_process(settings.host),
        )

    def ids_for(self, queue: str) -> list[int]:
        """The backends whose jobs may be on a queue."""
        own = self._by_queue.get(queue)
        return list(self.drivers) if own is None else [own]

    def max_jobs(self, queue: str) -> int | None:
        """How many jobs of a backend's queue may run at once, all workers together."""
        return self._max_jobs.get(queue)

    def look_at_all(self) -> None:
        """Look at every backend; what is wrong with one is recorded with it."""
        self._look(list(self.drivers))

    def look_at_unusable(self) -> None:
        """Look again at those backends that could not be used the last time."""
        self._look(sorted(self._unusable))

    def _look(self, backend_ids: list[int]) -> None:
        for backend_id in backend_ids:
            driver = self.drivers[backend_id]
            self._unusable.add(backend_id)
            try:
                self._set_up(backend_id, driver)
                self.leases.enter(backend_id, renew=True)
                _, changes = look_at(driver, self._database, backend_id, _Looking())
                with self._database.write() as connection:
                    now = connection.execute(select(db_now())).scalar_one()
                    promises.add(connection, apply(connection, changes, now))
                self._unusable.discard(backend_id)
            except Problem as problem:
                self._note(backend_id, problem.job_error())
                log.warning("backend.unusable", backend=self.names[backend_id], why=problem.detail)
            except Exception as error:
                self._note(
                    backend_id, {"code": "internal_error", "detail": str(error), "retryable": True}
                )
                log.exception("backend.unforeseen_error", backend=self.names[backend_id])

    def _set_up(self, backend_id: int, driver: Driver) -> None:
        """Make sure that the storage bears the identity marker the database knows.

        The marker is decided and committed first, then written where there is none, then
        noted as written: from then on a missing one means that the storage is not there.
        """

        # Asked before the transaction: storage that hangs must not hold up the database.
        there = driver.read_identity()

        def decide(connection: Connection) -> Any:
            row = connection.execute(
                select(backends.c.identity, backends.c.identity_written)
                .where(backends.c.id == backend_id)
                .with_for_update()
            ).one()
            if row.identity is None:
                if there is not None:
                    raise IdentityMismatch(
                        "the storage bears the marker of another backend or installation. If it "
                        "is to be taken over, an administrator can say so with 'orchestrator "
                        f"backend verify {self.names[backend_id]} accept_identity=true'"
                    )
                identity = uuid.uuid4().hex
                connection.execute(
                    update(backends).where(backends.c.id == backend_id).values(identity=identity)
                )
                return identity, False
            return row.identity, row.identity_written

        identity, written = self._database.transact(decide)
        found = driver.read_identity()
        if "identity" in driver.cannot_tell:
            found = identity  # that it is there is all that can be seen
        if found is None and not written:
            driver.write_identity(identity)
            found = driver.read_identity()
        if found != identity:
            what = "no identity marker" if found is None else "the marker of another backend"
            raise IdentityMismatch(f"the storage bears {what}: is the right storage mounted?")
        if not written:
            self._database.transact(
                lambda connection: connection.execute(
                    update(backends)
                    .where(backends.c.id == backend_id)
                    .values(identity_written=True)
                )
            )

    def _note(self, backend_id: int, error: dict[str, Any]) -> None:
        try:
            self._database.transact(
                lambda connection: connection.execute(
                    update(backends)
                    .where(backends.c.id == backend_id)
                    .values(error=error, refreshed_at=db_now())
                )
            )
        except Problem as problem:
            log.warning("backend.not_noted", why=problem.detail)


def _make(name: str, target: str, options: Any, installation_id: str) -> Driver:
    module, _, kind = target.partition(":")
    driver: Driver = getattr(importlib.import_module(module), kind)(name, options, installation_id)
    return driver
