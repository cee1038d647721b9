"""An engine in this very process, for one backend: the whole of it but the broker.

The broker carries hints alone, so it can be left out where whoever submits also works: jobs
are rows of a SQLite database and are executed, retried and taken up again like any others,
also by other processes that use the same directory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import IdentityMismatch
from orchestrator.domain.states import Role
from orchestrator.jobs import upkeep
from orchestrator.jobs.queued import Wake
from orchestrator.jobs.submit import submit
from orchestrator.jobs.views import job_views
from orchestrator.logs import configure_logs
from orchestrator.nas.edges.local import Local
from orchestrator.nas.gateways import Request, View, ended_well
from orchestrator.settings import LogSettings, Settings, default_data
from orchestrator.store import migrate
from orchestrator.store.database import Database
from orchestrator.store.transaction import Transaction

T = TypeVar("T")

#: What the engine's one backend is called.
BACKEND = "nas"
_ACTOR = Actor("nas", Role.ADMIN)
#: Seconds between looks at jobs that wait for something, and at what time brings.
_LOOK_SECONDS = 0.05
_TICK_SECONDS = 1.0

log = structlog.get_logger(__name__)

#: A database with the schema and nothing in it, made once a process: to copy is quicker.
_template: bytes | None = None
_template_guard = threading.Lock()


class _OwnSettings(Settings):
    """Settings that come from nowhere but their arguments."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The arguments."""
        return (init_settings,)


class _Nobody:
    """Hears what would be told to others."""

    def send(self, wake: Wake) -> None:
        """Whoever submits works by itself."""

    def ended(self, jobs: Sequence[int], batches: Sequence[int]) -> None:
        """Whoever waits looks by itself."""

    def close(self) -> None:
        """There is nothing to close."""


class PrivateEngine(Local):
    """A `orchestrator.nas.gateways.Gateway` to an engine of this process. Threads may share it."""

    def __init__(
        self,
        backend: Mapping[str, Any],
        data: Path | None = None,
        *,
        wait_seconds: float = 600.0,
        accept_identity: bool = False,
    ) -> None:
        """``backend``: as in the configuration. ``data``: a directory; None: all is forgotten.

        Raises `IdentityMismatch` for storage that another engine has made its own, unless
        ``accept_identity`` says that this one takes it over.
        """
        if not structlog.is_configured():
            configure_logs(LogSettings(level="warning"), "nas")
        super().__init__(BACKEND, _ACTOR)
        self._wait = wait_seconds
        closing = ExitStack()
        #: Ends the engine, at the latest when nobody has it any more.
        self._finalizer = weakref.finalize(self, closing.close)
        try:
            self._begin(backend, data, closing)
            self._make_sure(accept_identity=accept_identity)
        except BaseException:
            self.close()
            raise

    def _begin(self, backend: Mapping[str, Any], data: Path | None, closing: ExitStack) -> None:
        # Brings the drivers along, which those who use a service need not load.
        from workers.backends.memory.store import erase
        from workers.leases import Leases
        from workers.runner import Runner
        from workers.serving import Serving

        directory = data or Path(tempfile.mkdtemp(prefix="orchestrator-"))
        if data is None:
            closing.callback(shutil.rmtree, directory, ignore_errors=True)
        self._settings = _OwnSettings(
            data=directory, backends={BACKEND: dict(backend)}, host=os.uname().nodename
        )
        _prepare(self._settings.database_url, directory, forgotten=data is None)
        self._database = Database(self._settings.database_url, pool_size=10)
        closing.callback(self._database.close)
        self._serving = Serving(self._settings, self._database)
        if data is None:
            for driver in self._serving.drivers.values():
                closing.callback(erase, driver.backend, driver.installation)
        self._serving.look_at_all()
        worker = self._settings.worker
        self._leases = Leases(
            self._database,
            lease_seconds=worker.lease_seconds,
            beat_seconds=worker.heartbeat_seconds,
        )
        closing.callback(self._leases.close)
        nobody = _Nobody()
        self._runner = Runner(
            self._settings,
            self._database,
            self._serving,
            self._leases,
            nobody,
            nobody,
            worker=f"nas-{os.getpid()}-{uuid.uuid4().hex[:8]}",
        )
        stopped = threading.Event()
        ticking = threading.Thread(
            target=_tick, args=(weakref.ref(self), stopped), name="nas", daemon=True
        )
        ticking.start()
        closing.callback(_stop, stopped, ticking)

    def _make_sure(self, *, accept_identity: bool) -> None:
        """Make sure that the storage is this engine's. Raises `IdentityMismatch`."""
        error = self._read(lambda transaction: self._row(transaction)["error"])
        if error is None or error["code"] != IdentityMismatch.code:
            return
        if not accept_identity:
            raise IdentityMismatch(
                "the storage bears the marker of another installation: a service that has it as a "
                "backend, or one that was used with another data directory. If nobody else uses "
                "it any more, say accept_identity=True"
            )
        self.run([{"action": "backend.verify", "params": {"accept_identity": True}}])

    @property
    def directory(self) -> Path:
        """Where its database is."""
        return self._settings.data

    def close(self) -> None:
        """End the engine."""
        self._finalizer()

    def run(self, requests: Sequence[Request]) -> Sequence[View]:
        submission = self._submission(requests)
        accepted = self._database.transact(
            lambda transaction: submit(
                transaction, submission, max_attempts=self._settings.retry.max_attempts
            )
        )
        end = time.monotonic() + self._wait
        while True:
            self._work()
            found = self._read(lambda transaction: job_views(transaction, accepted.job_ids))
            jobs = [found[job_id] for job_id in accepted.job_ids]
            if all(job["finished_at"] for job in jobs) or time.monotonic() >= end:
                return ended_well(jobs, self._wait)
            self._database.transact(upkeep.queue_due)
            time.sleep(_LOOK_SECONDS)

    def unknown(self) -> list[str]:
        """The names of volumes on the storage that the inventory does not have."""
        [driver] = self._serving.drivers.values()
        known = {volume["id"] for volume in self.volumes()}
        return [facts.name for facts in driver.list_volumes() if facts.id not in known]

    def _read(self, work: Callable[[Transaction], T]) -> T:
        return self._database.look(work)

    def _write(self, work: Callable[[Transaction], T]) -> T:
        return self._database.transact(work)

    def _work(self) -> None:
        for queue in self._runner.queues:
            self._runner.drain(queue)

    def tick(self) -> None:
        """Do what a scheduler would, also for processes that have died, and what comes of it."""
        self._database.transact(upkeep.queue_due)
        self._database.transact(upkeep.reclaim_expired)
        self._serving.look_at_unusable()
        self._work()


def _tick(engine: weakref.ref[PrivateEngine], stopped: threading.Event) -> None:
    """Let time pass in an engine until it is ended, or nobody has it any more."""
    while not stopped.wait(_TICK_SECONDS):
        if (here := engine()) is None:
            return
        try:
            here.tick()
        except Exception as error:
            log.warning("nas.tick_failed", error=str(error))
        del here


def data_for(hostname: str, vserver: str) -> Path:
    """The user's directory for what is known of a filer's SVM."""
    safe = "".join(c if c.isalnum() or c in "-_" else f".{ord(c):x}." for c in hostname)
    return default_data().with_name("orchestrator-nas") / safe / vserver.replace("/", "_")


def _prepare(url: str, directory: Path, *, forgotten: bool) -> None:
    """Make sure that the database is there."""
    global _template
    if not forgotten:
        migrate.upgrade(url)
        return
    file = directory / "orchestrator.db"
    with _template_guard:
        if _template is None:
            migrate.upgrade(url, named=False)
            _template = file.read_bytes()
        else:
            file.write_bytes(_template)
    migrate.name_installation(url)


def _stop(stopped: threading.Event, ticking: threading.Thread) -> None:
    stopped.set()
    if ticking is not threading.current_thread():
        ticking.join()
