"""Fixtures of the matrix of data."""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from orchestrator.embedded.broker import EmbeddedBroker
from tests.data.choice import CHOICE
from tests.data.databases import Databases, Files, Served
from tests.data.grounds import GROUNDS, Ground
from tests.data.record import Record
from tests.data.site import Site
from tests.rigs.rooms import room

_numbers = itertools.count(1)
_RECORD = Record()


def pytest_configure(config: pytest.Config) -> None:
    """Cells are tried on SQLite, unless PostgreSQL alone is asked for."""
    if config.getoption("database") == "postgresql":
        _RECORD.database = "postgresql"


def pytest_report_header() -> str:
    """The seed, so that a run can be repeated."""
    return CHOICE.told


class Grounds:
    """The storages of this process, opened when they are first asked for."""

    def __init__(self, room: Path, databases: Databases, broker_url: str) -> None:
        self._room, self._databases, self._broker_url = room, databases, broker_url
        self._open: dict[str, Ground] = {}

    def at(self, name: str) -> Ground:
        """A storage; the test is skipped with the reason where it cannot be had here."""
        if name not in self._open:
            room = self._room / f"ground-{next(_numbers)}"
            room.mkdir()
            ground = GROUNDS[name](room)
            ground.open()
            self._open[name] = ground
        return self._open[name]

    def site(self, name: str, exchange: Path | None = None, **audit: object) -> Site:
        """An installation on empty storage."""
        ground, number = self.at(name), next(_numbers)
        ground.clear(number)
        directory = self._room / f"site-{number}"
        directory.mkdir(mode=0o700)
        return Site(ground, directory, self._databases, self._broker_url, exchange, **audit)

    def give_up(self, name: str) -> None:
        """Take a storage down that a cell has left in a state that nobody knows."""
        if (ground := self._open.pop(name, None)) is not None:
            ground.close()

    def close(self) -> None:
        for name in list(self._open):
            self.give_up(name)


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest) -> Databases:
    """SQLite's, unless PostgreSQL alone is asked for."""
    if _RECORD.database == "postgresql":
        server, template = map(request.getfixturevalue, ("postgres_server", "migrated_postgres"))
        return Served(server, template)
    return Files(request.getfixturevalue("migrated_sqlite"))


@pytest.fixture(scope="session")
def grounds(
    tmp_path_factory: pytest.TempPathFactory,
    databases: Databases,
    broker_server: EmbeddedBroker,
) -> Iterator[Grounds]:
    """Where cells are tried."""
    # Databases in RAM: nobody cuts the power here. Images lie on file systems of their own.
    with room("data", tmp_path_factory) as directory:
        made = Grounds(directory, databases, broker_server.url)
        with _impatient_kernel():
            yield made
            made.close()


@contextmanager
def _impatient_kernel() -> Iterator[None]:
    """Others wait 2 seconds, not 45, for a worker that has an image to itself.

    Here they act in the worker's own process, and it cannot let go meanwhile. The setting is the
    whole machine's: the last of the processes that share it puts it back.
    """
    if os.geteuid() != 0:
        yield
        return
    patience = Path("/proc/sys/fs/lease-break-time")
    with (Path(tempfile.gettempdir()) / "lease-break-time-before").open("a+") as before:
        fcntl.flock(before, fcntl.LOCK_SH)
        # Kept before it is changed, so that what stands first is what was there at first.
        before.write(patience.read_text())
        before.flush()
        patience.write_text("2")
        try:
            yield
        finally:
            with suppress(BlockingIOError):
                fcntl.flock(before, fcntl.LOCK_EX | fcntl.LOCK_NB)
                before.seek(0)
                patience.write_text(before.readline())
                before.truncate(0)


@pytest.fixture(scope="session")
def record() -> Record:
    """What came of each cell, kept for the table."""
    return _RECORD


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep how other tests ended, too."""
    path, _, name = report.nodeid.partition("::")
    if report.when == "call" and "tests/data/" in path and "test_matrix" not in path:
        _RECORD.whole[name] = report.outcome


def pytest_sessionfinish() -> None:
    """Write what was kept, if somebody wants it."""
    if directory := os.environ.get("DATA_RECORD"):
        _RECORD.write(Path(directory))
