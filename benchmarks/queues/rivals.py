"""The rivals, as the experiments use them: each in a process of its own environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from benchmarks.queues import place
from orchestrator.embedded.broker import EmbeddedBroker, redis_client_url
from orchestrator.embedded.process import die_with_parent

if TYPE_CHECKING:
    from benchmarks.stand import Stand

#: The environment that ``make bench`` installs them in.
PYTHON = Path(".venv-bench/bin/python")

#: By the name of their package; whether each keeps its jobs in PostgreSQL.
RIVALS = {"procrastinate": True, "pgqueuer": True, "dramatiq": False}


def missing() -> str | None:
    """Why they cannot be measured; None: they can."""
    if PYTHON.exists():
        return None
    return f"{PYTHON} is not there: 'make bench' installs the other queues"


class Rival:
    """One rival with a database or a broker of its own, warmed up while in the context."""

    def __init__(self, name: str, stand: Stand, *, one_at_a_time: bool = False) -> None:
        """``one_at_a_time``: it is asked for `latencies`, not for `seconds_for`."""
        directory = stand.scratch(name)
        self._name = name
        self._function = "latencies" if one_at_a_time else "seconds_for"
        self._log = directory / "log"
        self._broker: EmbeddedBroker | None = None
        if RIVALS[name]:
            url = stand.database(directory.name)
            self._url = url.replace("postgresql+psycopg:", "postgresql:")
        else:
            self._broker = EmbeddedBroker(directory / "broker")
            self._broker.start()
            self._url = redis_client_url(self._broker.url)

    def __enter__(self) -> Rival:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [PYTHON, "-m", "benchmarks.queues.serve", self._name, self._function],
                env={**os.environ, place.VARIABLE: self._url},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self._hear()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin and self._process.stdout  # noqa: S101 - they are pipes
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        if self._broker is not None:
            self._broker.stop()

    def seconds_for(self, count: int) -> float:
        """Seconds from submitting so many empty jobs to the end of the last."""
        seconds: float = self._ask(count)
        return seconds

    def latencies(self, count: int) -> list[float]:
        """Seconds from submitting to knowing the end, of empty jobs one after the other."""
        taken: list[float] = self._ask(count)
        return taken

    def _ask(self, count: int) -> Any:
        assert self._process.stdin  # noqa: S101 - it is a pipe
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return json.loads(self._hear())

    def _hear(self) -> str:
        assert self._process.stdout  # noqa: S101 - it is a pipe
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{self._name} ended:\n{self._log.read_text()[-3000:]}")
        return line
