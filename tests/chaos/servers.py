"""The servers, and how they are broken: the broker, PostgreSQL, and small file systems."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from orchestrator.embedded.broker import EmbeddedBroker, redis_client_url
from tests.rigs.postgres import Postgres


class Broker:
    """A broker that can be killed and frozen; its address stays."""

    def __init__(self, directory: Path) -> None:
        self._server = EmbeddedBroker(directory)
        self._server.start()
        self.url = self._server.url

    def _pid(self) -> int:
        with redis.Redis.from_url(redis_client_url(self.url)) as client:
            return int(client.info("server")["process_id"])

    def kill(self) -> None:
        """SIGKILL, and nothing in its place."""
        os.kill(self._pid(), signal.SIGKILL)

    def restart(self) -> None:
        """Start it again after `kill`, empty."""
        self._server.stop()
        self._server.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP for the block."""
        pid = self._pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def stop(self) -> None:
        self._server.stop()


class FragilePostgres(Postgres):
    """A PostgreSQL that can be stopped as a power cut stops it."""

    def start_in(self, directory: Path) -> None:
        """Start with the data below a directory."""
        before, tempfile.tempdir = tempfile.tempdir, str(directory)
        try:
            self.start()
        finally:
            tempfile.tempdir = before

    def crash(self) -> None:
        """Its immediate shutdown, then its recovery."""
        self.kill()
        self._launch()


class SmallFileSystem:
    """A file system of its own in RAM, which can be filled to the last byte."""

    def __init__(self, directory: Path, mib: int) -> None:
        self.path = directory
        directory.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=700", "none", str(directory)],
            check=True,
            capture_output=True,
        )

    @contextmanager
    def full(self) -> Iterator[None]:
        """No byte is left during the block."""
        filler = self.path / "filler"
        with filler.open("wb", buffering=0) as file:
            for size in (2**20, 4096):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
        try:
            yield
        finally:
            filler.unlink()

    def close(self) -> None:
        """Unmount it, once nobody uses it any more."""
        end = time.monotonic() + 30
        while subprocess.run(["umount", str(self.path)], capture_output=True).returncode:
            if time.monotonic() > end:
                subprocess.run(["umount", "-l", str(self.path)], check=True)
                return
            time.sleep(0.05)


def can_mount() -> bool:
    """Whether this process may mount file systems."""
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
    return os.geteuid() == 0 and done.returncode == 0
