"""A worker process: a Celery worker whose one task is to look for work, and its own clock."""

from __future__ import annotations

import os
import signal
import threading
import uuid
import warnings
from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

from orchestrator import failpoints
from orchestrator.domain.errors import Problem
from orchestrator.interpreter import tune
from orchestrator.inventory.hosts import gone, seen
from orchestrator.jobs.wakeups import WAKE_TASK, Wakeups, queue
from orchestrator.logs import Trouble, configure_logs
from orchestrator.machine import boot_id
from orchestrator.settings import Settings
from orchestrator.store import migrate
from orchestrator.store.database import Database
from orchestrator.store.frozen import watching
from workers.leases import Leases
from workers.listening import Listening
from workers.runner import Runner
from workers.serving import Serving

log = structlog.get_logger(__name__)

#: Seconds between signs of life, and between looks at the backends and the use of their volumes.
_SEEN_SECONDS = 4.0
_LOOK_SECONDS = 60.0
#: Seconds between looks for backends that cannot be used: storage that was mounted late.
_MEND_SECONDS = 2.0
#: Seconds between looks at the leases on the storage.
_LEASE_SECONDS = 5.0
#: Seconds that an outcome may wait to be written with others.
_WRITE_SECONDS = 0.25
#: Beyond the time for safe points, how long Celery may take to come to an end.
_EXIT_SECONDS = 5.0


def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT; then hand back what is running and leave."""
    configure_logs(settings.log, "worker")
    tune()
    # Celery would set up logging of its own, and send our lines through it.
    signals.setup_logging.connect(_keep_logs, weak=False)
    migrate.refuse_unknown(settings.database_url)
    worker = f"{settings.host[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    database = Database(
        settings.database_url,
        # A thread needs a connection only while it claims and finishes.
        pool_size=max(settings.database.pool_size, settings.worker.threads + 4),
        idle_seconds=settings.database.idle_seconds,
        known_schema=True,
    )
    # Beside the scheduler, which may be the one that is frozen.
    watch = watching(settings.database_url, settings.database.idle_seconds)
    serving = Serving(settings, database)
    leases = Leases(
        database,
        lease_seconds=settings.worker.lease_seconds,
        beat_seconds=settings.worker.heartbeat_seconds,
        time_limits={name: backend.time_limits for name, backend in settings.backends.items()},
    )
    listening = Listening(settings.broker_url, settings.broker.prefix)
    wakeups = Wakeups(settings.broker_url, settings.broker.prefix)
    runner = Runner(settings, database, serving, leases, wakeups, worker=worker)

    def sign_of_life() -> None:
        database.transact(
            lambda transaction: seen(
                transaction,
                worker,
                host=settings.host,
                pid=os.getpid(),
                boot_id=boot_id(),
                queues=runner.queues,
            )
        )

    def keep_moving() -> None:
        runner.hand_back_held_up()
        runner.write_ready()
        runner.pass_on()

    serving.look_at_all()
    sign_of_life()
    clocks = [
        _Clock("seen", _SEEN_SECONDS, sign_of_life),
        _Clock("look", _LOOK_SECONDS, serving.look_at_all),
        _Clock("use", _LOOK_SECONDS, serving.read_use),
        _Clock("lease", _LEASE_SECONDS, serving.leases.renew_due),
        _Clock("mend", _MEND_SECONDS, serving.mend),
        # Outcomes do not wait for the end of their group.
        _Clock("write", _WRITE_SECONDS, keep_moving),
        # Beside the messages: work is found even if the broker is gone or has forgotten us.
        _Clock("claim", settings.worker.claim_seconds, runner.look),
    ]
    log.info("worker.started", worker=worker, queues=runner.queues)
    try:
        signals.worker_shutting_down.connect(_stopper(leases, settings), weak=False)
        listening.until_stopped(
            lambda: _celery(listening.app, runner, settings, worker), leases.stopping
        )
    finally:
        leases.stopping.set()
        for clock in clocks:
            clock.stop()
        wakeups.close()
        runner.close()
        leases.close()
        try:
            database.transact(lambda transaction: gone(transaction, worker))
        except Problem as problem:
            log.warning("worker.not_struck", why=problem.detail)
        try:
            serving.leases.release()
        except Problem as problem:
            log.warning("worker.not_released", why=problem.detail)
        watch.close()
        database.close()
        log.info("worker.stopped", worker=worker, dropped_messages=listening.dropped)


class _Clock:
    """Does something every so often, in a thread of its own, until stopped."""

    def __init__(self, name: str, seconds: float, work: Callable[[], None]) -> None:
        self._seconds, self._work = seconds, work
        self._trouble = Trouble(log, f"worker.{name}_failed", f"worker.{name}_works_again")
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop; wait a moment for what is being done."""
        self._stopped.set()
        self._thread.join(timeout=_EXIT_SECONDS)

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self._work()
                self._trouble.went()
            except Exception as error:
                self._trouble.came(error=str(error))


def _stopper(leases: Leases, settings: Settings) -> Callable[..., None]:
    """What a shutdown sets off: safe points hand back, and a hung driver holds up nobody."""

    def stop(**_: Any) -> None:
        leases.stopping.set()
        limit = threading.Timer(settings.worker.shutdown_seconds + _EXIT_SECONDS, _give_up)
        limit.daemon = True
        limit.start()

    return stop


def _keep_logs(**_: Any) -> None:
    """Logging is set up already."""


def _give_up() -> None:
    # What still runs has not reached a safe point. Its lease runs out, and another worker
    # asks the backend what is there.
    log.error("worker.left_jobs_behind")
    os._exit(1)


def _celery(app: Celery, runner: Runner, settings: Settings, worker: str) -> None:
    @app.task(name=WAKE_TASK)
    def wake(name: str, jobs: list[int] | None) -> None:
        failpoints.reach("worker.woken", queue=name)
        if name in runner.queues:
            runner.wake(name, jobs)

    # Attaching needs root. Messages are JSON, so what Celery warns root of cannot happen.
    app.conf.accept_content = ["json"]
    warnings.simplefilter("ignore", SecurityWarning)
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    app.conf.task_queues = [queue(name) for name in runner.queues]
    hung_up = signal.getsignal(signal.SIGHUP)
    celery_worker = app.Worker(
        pool="threads",
        concurrency=settings.worker.threads * len(runner.queues),
        hostname=worker,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
        loglevel=settings.log.level.upper(),
    )
    # Celery would begin again by itself at SIGHUP, whatever the configuration is by then.
    tweak = celery_worker.install_platform_tweaks

    def keep_hangup(worker: Any) -> None:
        tweak(worker)
        signal.signal(signal.SIGHUP, hung_up)

    celery_worker.install_platform_tweaks = keep_hangup
    celery_worker.start()
