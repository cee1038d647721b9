"""What forked children are: a worker, a scheduler, an API; each the product's own inside.

A child is forked from a process without threads that has everything imported, so that it costs
a few milliseconds. It really dies, freezes and loses its connections; what it does is the
product's code, stepped by what the test writes into its pipe.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import httpx
import redis
import structlog
from celery.fixups import django as _django  # noqa: F401 - every application imports it

from orchestrator import failpoints
from orchestrator.api.app import create_app, served
from orchestrator.api.service import Service
from orchestrator.embedded.broker import redis_client_url
from orchestrator.jobs.wakeups import Wakeups
from orchestrator.settings import SchedulerSettings, Settings
from orchestrator.store.database import Database
from tests.chaos import without
from workers import runner as runner_module
from workers.backends.file import driver as _file  # noqa: F401 - imported before anyone is forked
from workers.backends.memory import driver as _memory  # noqa: F401
from workers.leases import Leases
from workers.runner import Runner
from workers.scheduler import Scheduler
from workers.serving import Serving

#: Seconds between heartbeats where a test wants none.
NEVER = 86400.0


class Inside:
    """A worker process's inside: what wakes it is up to the test."""

    def __init__(self, given: dict[str, Any], name: str, beat_seconds: float = NEVER) -> None:
        self.settings = Settings(**given)
        idle_seconds = self.settings.database.idle_seconds
        self.database = Database(self.settings.database_url, idle_seconds=idle_seconds)
        self.serving = Serving(self.settings, self.database)
        self.leases = Leases(
            self.database,
            lease_seconds=self.settings.worker.lease_seconds,
            beat_seconds=beat_seconds,
        )
        self.wakeups = Wakeups(self.settings.broker_url)
        self.runner = Runner(
            self.settings, self.database, self.serving, self.leases, self.wakeups, worker=name
        )

    def look_for_work(self) -> None:
        """What the worker's own clock and its wake-ups do: drain every queue it serves."""
        for queue in self.runner.queues:
            try:
                self.runner.drain(queue)
            except Exception:
                # The product's clock logs this and looks again later; so does the test.
                traceback.print_exc()

    def heed_messages(self) -> None:
        """What messages alone bring about: drain the queues that one has come for."""
        with redis.Redis.from_url(redis_client_url(self.settings.broker_url)) as client:
            for queue in self.runner.queues:
                while client.rpop(queue) is not None:
                    self.runner.drain(queue)

    def close(self) -> None:
        self.wakeups.close()
        self.runner.close()
        self.database.close()


def worker(pipe: Connection, given: dict[str, Any], name: str, beat_seconds: float) -> None:
    """A worker that looks for work each time it is told ``work``, until its pipe is closed."""
    inside = Inside(given, name, beat_seconds)

    def work() -> None:
        inside.look_for_work()
        inside.wakeups.close()
        inside.wakeups = inside.runner._wakeups = Wakeups(inside.settings.broker_url)

    _serve(pipe, {"work": work})
    inside.close()


def survivor(pipe: Connection, given: dict[str, Any], name: str) -> None:
    """Whoever is left: ``recover`` is a turn of the scheduler, then a look for work.

    A ``sweep`` does, too, what a scheduler does only every ten seconds and at its start.
    """
    inside = Inside(given, name)
    inside.serving.look_at_all()

    #: Looks at what is due at every tick; at what hardly ever happens only now and then.
    eager = inside.settings.model_copy(
        update={"scheduler": SchedulerSettings(tick_seconds=1e-6, relay_seconds=1e-6)}
    )
    watching = Scheduler(eager)

    def recover() -> None:
        watching.tick()
        inside.look_for_work()
        watching.tick()

    def sweep() -> None:
        # Everything is due, as it is when a scheduler starts.
        watching._due = [0.0] * len(watching._due)
        recover()

    _serve(pipe, {"recover": recover, "work": inside.look_for_work, "sweep": sweep})
    inside.close()


def scheduler(pipe: Connection, given: dict[str, Any]) -> None:
    """A scheduler; each ``tick`` does every step that is due, all of them at first."""
    made = Scheduler(Settings(**given))

    def tick() -> None:
        made.tick()
        made.close()

    _serve(pipe, {"tick": tick})


def api(pipe: Connection, given: dict[str, Any], token: str) -> None:
    """An API process without its socket: ``post`` sends one request through the application."""
    asyncio.run(_api(pipe, given, token))


async def _api(pipe: Connection, given: dict[str, Any], token: str) -> None:
    service = Service(Settings(**given))
    app = create_app(service)
    transport = httpx.ASGITransport(served(app, service), raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=transport,
            base_url="http://api",
            headers={"Authorization": f"Bearer {token}"},
        ) as http,
    ):
        pipe.send(("ready", None))
        while True:
            try:
                _, arguments = await asyncio.to_thread(pipe.recv)
            except EOFError:
                return
            path, body, headers = arguments
            answer = await http.post(path, json=body, headers=headers)
            pipe.send(("done", (answer.status_code, dict(answer.headers), answer.json())))


def _serve(pipe: Connection, commands: dict[str, Callable[..., Any]]) -> None:
    pipe.send(("ready", None))
    while True:
        try:
            name, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("done", commands[name](*arguments)))
        except Exception as error:
            traceback.print_exc()
            pipe.send(("failed", f"{type(error).__name__}: {error}"))


def begin(
    role: Callable[..., None],
    pipe: Connection,
    log: str,
    armed: bool,
    switched_off: str | None,
    *arguments: Any,
) -> None:
    """The child's main function: its output goes to ``log``; it ends when its pipe does.

    Failpoints act in ``armed`` children only: in the one that is to be broken.
    """
    if not armed:
        failpoints._directory = None
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.stderr = os.fdopen(descriptor, "w", buffering=1)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(
                colors=False, exception_formatter=structlog.dev.plain_traceback
            ),
        ],
    )
    # The product pauses here between tries to reach its database; the test decides about time.
    runner_module._AGAIN_SECONDS = 0.02
    if switched_off is not None:
        without.switch_off(switched_off)
    status = 1
    try:
        role(pipe, *arguments)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # Threads that hang at a failpoint hold up nobody.
        os._exit(status)
