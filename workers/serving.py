"""The backends this worker serves: their drivers, their rows, and whether they can be used."""

from __future__ import annotations

import importlib
import threading
import time
import uuid
from collections.abc import Iterable
from typing import Any

import structlog
from sqlalchemy import select, update

from orchestrator.domain.drivers import DriverOptions, DriverSpec
from orchestrator.domain.errors import IdentityMismatch, InvalidInput, Outage, Problem
from orchestrator.domain.queues import CONTROL_QUEUE, backend_queue
from orchestrator.inventory.backends import configure, ids_of
from orchestrator.jobs import outages
from orchestrator.resources.changes import apply
from orchestrator.settings import Settings
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import backends, installation
from orchestrator.store.transaction import Transaction
from workers.backends.base.commands import Ran
from workers.backends.base.driver import Driver
from workers.execution.refresh import look_at, read_use
from workers.storage_leases import StorageLeases, this_process

log = structlog.get_logger(__name__)

#: Seconds between looks at a backend that cannot be used: twice this at first, and at most.
_FIRST_SECONDS = 2.0
_MOST_SECONDS = 30.0
#: Reading the use of a backend's volumes comes again after so many times what it took: where
#: there are many, it takes no more than this share of a worker's time.
_PAUSE = 20.0


class _Looking:
    """The `Call` of a look at a backend, on behalf of no job."""

    job_id = 0
    token = "0"  # noqa: S105 - no secret
    fence = 0
    alone = False

    def checkpoint(self) -> None:
        """A look may always go on."""

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        """Nobody waits for it."""

    def seconds_left(self) -> float:
        return 60.0

    def ran(self, ran: Ran) -> None:
        """There is no job to keep it with."""


class Serving:
    """Drivers by backend id, made once and shared by the threads."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._database = database
        served = settings.served_backends()

        def register(transaction: Transaction) -> tuple[dict[str, int], str]:
            configure(transaction, settings.backends)
            ids = ids_of(transaction, list(served))
            return ids, transaction.execute(select(installation.c.uuid)).scalar_one()

        ids, installation_id = database.transact(register)
        self._unusable: set[int] = set()
        #: Those that are out of reach from here, and why: nothing is done there until they are
        #: back. And those that are being looked at just now.
        self.away: dict[int, Outage] = {}
        self._looked_at: set[int] = set()
        self._guard = threading.Lock()
        #: When each of those that cannot be used is looked at next, and the seconds until then.
        self._next: dict[int, tuple[float, float]] = {}
        #: When the use of each one's volumes is read next.
        self._read_next: dict[int, float] = {}
        #: What was said last of a backend that cannot be used: it is said once.
        self._said: dict[int, str] = {}
        self.names = {ids[name]: name for name in served}
        self._by_queue = {backend_queue(name): id_ for id_, name in self.names.items()}
        self._max_jobs = {
            backend_queue(name): backend.max_jobs
            for name, backend in served.items()
            if backend.max_jobs is not None
        }
        self.drivers: dict[int, Driver] = {
            ids[name]: make_driver(name, backend.spec, backend.options, installation_id)
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
        """The backends whose jobs may be on a queue, but those that are out of reach."""
        own = self._by_queue.get(queue)
        ids = list(self.drivers) if own is None else [own]
        return ids if queue == CONTROL_QUEUE else [id_ for id_ in ids if id_ not in self.away]

    def max_jobs(self, queue: str) -> int | None:
        """How many jobs of a backend's queue may run at once, all workers together."""
        return self._max_jobs.get(queue)

    def look_at_all(self) -> None:
        """Look at every backend; what is wrong with one is recorded with it."""
        self._look(list(self.drivers))

    def look_at_unusable(self) -> None:
        """Look again at those backends that could not be used the last time, by whomever."""
        self._look(self._wanted())

    def mend(self) -> None:
        """The same, ever less often for those that stay so."""
        wanted, now = self._wanted(), time.monotonic()
        self._next = {id_: self._next[id_] for id_ in wanted if id_ in self._next}
        due = [id_ for id_ in wanted if now >= self._next.get(id_, (now, 0.0))[0]]
        self._look(due)
        for id_ in due:
            distance = min(_MOST_SECONDS, 2 * self._next.get(id_, (now, _FIRST_SECONDS))[1])
            self._next[id_] = (now + distance, distance)

    def read_use(self) -> None:
        """Read how full the volumes of each backend are, ever less often where that takes long."""
        for backend_id, driver in self.drivers.items():
            begun = time.monotonic()
            if begun < self._read_next.get(backend_id, begun) or backend_id in self._said:
                continue
            try:
                read_use(driver, self._database, backend_id, _Looking())
            except Outage:
                self.suspect([backend_id])
            except Problem as problem:
                log.warning(
                    "backend.use_not_read", backend=self.names[backend_id], why=str(problem)
                )
            ended = time.monotonic()
            self._read_next[backend_id] = ended + _PAUSE * (ended - begun)

    def _wanted(self) -> list[int]:
        away = self._database.look(
            lambda transaction: outages.out_of_reach(transaction, self.drivers)
        )
        return sorted(self._unusable.union(away))

    def suspect(self, backend_ids: Iterable[int]) -> None:
        """A job could not reach these: look whether they are away, once for all such jobs."""
        self._look([id_ for id_ in backend_ids if id_ in self.drivers and id_ not in self.away])

    def _look(self, backend_ids: list[int]) -> None:
        for backend_id in backend_ids:
            with self._guard:
                if backend_id in self._looked_at:
                    continue
                self._looked_at.add(backend_id)
            try:
                self._look_at(backend_id)
            finally:
                self._looked_at.discard(backend_id)

    def _look_at(self, backend_id: int) -> None:
        driver = self.drivers[backend_id]
        self._unusable.add(backend_id)
        try:
            self._set_up(backend_id, driver)
            self.leases.enter(backend_id, renew=True)
            _, change = look_at(driver, self._database, backend_id)
            with self._database.write() as transaction:
                now = transaction.execute(select(db_now())).scalar_one()
                apply(transaction, [change], now)
            self._database.transact(lambda transaction: outages.ends(transaction, backend_id))
        except Outage as outage:
            self._is_away(backend_id, outage)
            return
        except Problem as problem:
            self._note(backend_id, problem.job_error())
            self._say(backend_id, problem.detail)
        except Exception as error:
            self._note(
                backend_id, {"code": "internal_error", "detail": str(error), "retryable": True}
            )
            log.exception("backend.unforeseen_error", backend=self.names[backend_id])
        else:
            self._unusable.discard(backend_id)
            self._say(backend_id, None)
        # Whatever else is wrong with it: its jobs will see that for themselves.
        self.away.pop(backend_id, None)
        self._let_go(backend_id)

    def _is_away(self, backend_id: int, outage: Outage) -> None:
        known = backend_id in self.away
        self.away[backend_id] = outage
        self._say(backend_id, outage.detail)
        self._note(backend_id, outage.job_error())
        if known:
            return
        try:
            self._database.transact(
                lambda transaction: outages.begins(transaction, backend_id, outage)
            )
        except Problem as problem:
            log.warning("backend.not_noted", why=problem.detail)

    def _let_go(self, backend_id: int) -> None:
        """Let jobs go on that waited for the backend."""
        name = self.names[backend_id]
        try:
            while wake := self._database.transact(
                lambda transaction: outages.let_go(transaction, name)
            ):
                log.info("backend.jobs_let_go", backend=name, queues=sorted(wake))
        except Problem as problem:
            log.warning("backend.not_noted", why=problem.detail)

    def _say(self, backend_id: int, why: str | None) -> None:
        """Say what is wrong with a backend once, and once that it is well again."""
        said, name = self._said.get(backend_id), self.names[backend_id]
        if why is None:
            if self._said.pop(backend_id, None) is not None:
                log.info("backend.usable", backend=name)
        elif why != said:
            self._said[backend_id] = why
            log.warning("backend.unusable", backend=name, why=why)

    def _set_up(self, backend_id: int, driver: Driver) -> None:
        """Make sure that the storage bears the identity marker the database knows.

        The marker is decided and committed first, then written where there is none, then
        noted as written: from then on a missing one means that the storage is not there.
        """

        # Asked before the transaction: storage that hangs must not hold up the database.
        there = driver.read_identity()

        def decide(transaction: Transaction) -> Any:
            row = transaction.execute(
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
                transaction.execute(
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
        if found is None:
            raise Outage(
                "the storage bears no identity marker any more: make sure that it is mounted"
            )
        if found != identity:
            raise IdentityMismatch(
                "the storage bears the marker of another backend: is the right storage mounted?"
            )
        if not written:
            self._database.transact(
                lambda transaction: transaction.execute(
                    update(backends)
                    .where(backends.c.id == backend_id)
                    .values(identity_written=True)
                )
            )

    def _note(self, backend_id: int, error: dict[str, Any]) -> None:
        try:
            self._database.transact(
                lambda transaction: transaction.execute(
                    update(backends)
                    .where(backends.c.id == backend_id)
                    .values(error=error, refreshed_at=db_now())
                )
            )
        except Problem as problem:
            log.warning("backend.not_noted", why=problem.detail)


def make_driver(
    name: str, spec: DriverSpec, options: DriverOptions, installation_id: str
) -> Driver:
    """The driver of a backend; nothing is touched yet.

    Raises `InvalidInput` if its class does not have the very capabilities that the API host
    knows it by.
    """
    module, _, kind = spec.target.partition(":")
    driver: type[Driver] = getattr(importlib.import_module(module), kind)
    wrong = {
        "declares": spec.capabilities - driver.declared(),
        "does not declare": driver.declared() - spec.capabilities,
    }
    said = [f"{how} {', '.join(sorted(which))}" for how, which in wrong.items() if which]
    if said:
        raise InvalidInput(
            f"the spec of the driver {spec.name!r} {' and '.join(said)}, unlike its class "
            f"{spec.target}: the two must have the same capabilities"
        )
    return driver(name, options, installation_id)
