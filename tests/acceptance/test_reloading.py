"""SIGHUP to the processes of the service: the configuration is read again, or a terminal closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from orchestrator.embedded.broker import redis_client_url
from tests.acceptance.conftest import free_port
from tests.chaos.processes import until
from tests.rigs.terminal import Terminal

pytestmark = [
    pytest.mark.parametrize("database_kind", ["sqlite"], indirect=True),
    pytest.mark.skipif(
        signal.getsignal(signal.SIGHUP) is signal.SIG_IGN,
        reason="what is started with nohup, and all that it starts, outlives its terminal",
    ),
]


class Part:
    """One process of the service, with its configuration."""

    def __init__(self, part: str, directory: Path, database: str, broker: str) -> None:
        self.log = directory / "log"
        self._part = part
        self._config = directory / "orchestrator.toml"
        self._text = f'[database]\nurl = "{database}"\n[broker]\nurl = "{broker}"\n'
        self._listen = f"127.0.0.1:{free_port()}"
        self._broker = broker
        (directory / "data").mkdir(mode=0o700)
        self._data = directory / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, more: str) -> None:
        """Write the configuration, with something more in it."""
        self._config.write_text(self._text + more)

    def start(self, terminal: Terminal | None = None) -> subprocess.Popen[bytes]:
        """Start it, and return when it works."""
        listen = ("--listen", self._listen) if self._part == "api" else ()
        words = [sys.executable, "-m", "orchestrator", self._part, "--config", str(self._config)]
        words += ["--data", str(self._data), *listen]
        kept = {key: value for key, value in os.environ.items() if "ORCHESTRATOR" not in key}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                words if terminal is None else terminal.command(*words),
                stdout=log,
                stderr=log,
                env=kept,
                # Whoever runs the tests may have a terminal.
                start_new_session=terminal is None,
            )
        self.until_started(1)
        return self._process

    def until_started(self, times: int) -> None:
        """Wait until it works for the so-many-th time."""
        started = f"{self._part}.started"
        until(lambda: self._says(started, times), f"{started}, {times} times")
        if self._part == "worker":
            # Celery listens: from then on the process's signals are as it has set them.
            with redis.Redis.from_url(redis_client_url(self._broker)) as client:
                until(lambda: any(one["cmd"] == "brpop" for one in client.client_list()), "brpop")

    def _says(self, words: str, times: int) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        return self.log.read_text().count(words) == times

    def stop(self) -> None:
        """End it, however it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def part(
    request: pytest.FixtureRequest, migrated_url: str, broker_url: str, tmp_path: Path
) -> Iterator[Part]:
    """The part that a test is run for."""
    made = Part(request.param, tmp_path, migrated_url, broker_url)
    made.configure("")
    yield made
    made.stop()


def _says(part: Part, words: str) -> Callable[[], bool]:
    return lambda: words in part.log.read_text()


@pytest.mark.parametrize("part", ["api", "worker", "scheduler"], indirect=True)
def test_a_process_reads_its_configuration_again(part: Part) -> None:
    process = part.start()
    part.configure("[log]\nformat = 'nonsense'\n")
    process.send_signal(signal.SIGHUP)
    until(_says(part, "reload.refused"), "the mistake is reported")
    assert "log.format" in part.log.read_text()

    part.configure("[log]\nformat = 'json'\n")
    process.send_signal(signal.SIGHUP)
    part.until_started(2)
    assert '"level":' in part.log.read_text().splitlines()[-1]

    process.terminate()
    assert process.wait(60) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("part", ["api", "worker", "scheduler"], indirect=True)
def test_a_closed_terminal_ends_a_process_in_order(part: Part) -> None:
    terminal = Terminal()
    process = part.start(terminal)
    terminal.close()
    assert process.wait(60) in (0, -signal.SIGTERM)
    assert "reload" not in part.log.read_text()
