"""Celery as it is measured: a worker with two processes, and the ways of submitting to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.celery_plain import BROKER_VARIABLE, LATE_VARIABLE, TASK, application
from benchmarks.crowd import Act
from orchestrator.embedded.broker import EmbeddedBroker
from orchestrator.embedded.process import die_with_parent

PROCESSES = 2
_WAIT = 120


class CeleryRival:
    """One Celery worker (the prefork pool, as is its default) and a broker of its own."""

    def __init__(self, directory: Path, *, acks_late: bool = False) -> None:
        directory.mkdir(parents=True)
        self._log = directory / "celery.log"
        self._broker = EmbeddedBroker(directory / "broker")
        self._acks_late = acks_late
        self._process: subprocess.Popen[bytes] | None = None
        self._task: Any = None

    def start(self) -> None:
        """Start broker and worker; return when a task has been done."""
        self._broker.start()
        kept = {name: value for name, value in os.environ.items() if "CELERY" not in name}
        late = {LATE_VARIABLE: "1"} if self._acks_late else {}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "celery", "-A", "benchmarks.celery_plain", "worker"),
                    *("--concurrency", str(PROCESSES), "--loglevel", "WARNING"),
                ],
                env={**kept, **late, BROKER_VARIABLE: self._broker.url},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),
            )
        app = application(self._broker.url, acks_late=self._acks_late)
        self._task = app.tasks[TASK]
        self._task.delay().get(timeout=_WAIT)

    def stop(self) -> None:
        """Stop the worker, then the broker."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait()
        self._broker.stop()

    def warm_up(self) -> None:
        """Do a little of everything, so that what is measured is not the first."""
        self.seconds_for(500)
        self.latencies(30)

    def seconds_for(self, count: int) -> float:
        """Seconds to submit so many tasks in a loop, and to collect all results."""
        begun = time.perf_counter()
        results = [self._task.delay() for _ in range(count)]
        for result in results:
            result.get(timeout=_WAIT)
        return time.perf_counter() - begun

    def latencies(self, count: int) -> list[float]:
        """Seconds from submitting to the result, of tasks one after the other."""
        taken: list[float] = []
        for _ in range(count):
            begun = time.perf_counter()
            self._task.delay().get(timeout=_WAIT)
            taken.append(time.perf_counter() - begun)
        return taken

    def arrive(self) -> Act:
        """A client: it submits one task and waits for its result."""

        def act() -> None:
            self._task.delay().get(timeout=_WAIT)

        return act
