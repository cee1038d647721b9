"""Fixtures of the crash matrix, and which of its cells a run tries."""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import update

from orchestrator.store import migrate
from orchestrator.store.database import Database
from orchestrator.store.tables import installation
from tests.chaos.choice import CHOICE
from tests.chaos.passes import Passes
from tests.chaos.processes import Nursery
from tests.chaos.record import Record
from tests.chaos.servers import Broker, FragilePostgres, SmallFileSystem, can_mount
from tests.chaos.world import World
from tests.rigs.rooms import release, room

#: Cells that are tried in one world before the next one is made: what there is of the last ones
#: is looked at after every cell, which takes the longer the more there is.
CELLS_PER_WORLD = 40
_SMALL_MIB = 48


@dataclass
class Place:
    """Where one kind of cell is tried: a database, a driver, perhaps on small file systems."""

    broker: Broker
    postgres: FragilePostgres | None
    storage_disk: SmallFileSystem | None
    database_disk: SmallFileSystem | None
    world: World
    cells: int = 0


class Places:
    """Makes worlds and keeps the last one of each kind while it is sound."""

    def __init__(self, directory: Path, nursery: Nursery, broker: Broker) -> None:
        self.directory = directory
        self.nursery = nursery
        self._broker = broker
        self._postgres: FragilePostgres | None = None
        self._kept: dict[tuple[str, str, bool], Place] = {}
        self._count = 0
        self._template: Path | None = None

    def at(self, driver: str, database: str, *, small: bool = False) -> Place:
        """A sound place of this kind, perhaps one where cells have been tried before."""
        kind = (driver, database, small)
        place = self._kept.get(kind)
        if place is None or place.cells >= CELLS_PER_WORLD:
            if any(kept[:2] != kind[:2] for kept in self._kept):
                self.leave()
            if place is not None:
                self.close(self._kept.pop(kind))
            place = self._kept[kind] = self.make(driver, database, small=small)
        place.cells += 1
        return place

    def leave(self) -> None:
        """Give the kept places up: what failed there must not be met again."""
        while self._kept:
            _, place = self._kept.popitem()
            self.close(place)

    def close(self, place: Place) -> None:
        """Take a place down, whoever is still in it."""
        place.world.close()
        # Volumes that were attached when a test failed.
        release(place.world.directory)
        if place.world.database.is_postgresql:
            self.postgres().drop_database(place.world.directory.name.replace("-", "_"))
        for disk in (place.storage_disk, place.database_disk):
            if disk is not None:
                disk.close()
        shutil.rmtree(place.world.directory, ignore_errors=True)

    def make(
        self, driver: str, database: str, *, small: bool = False, switched_off: str | None = None
    ) -> Place:
        """A new place; ``small``: with small file systems where disks shall be filled."""
        self._count += 1
        directory = self.directory / f"world-{self._count}"
        directory.mkdir()
        storage_disk = database_disk = None
        if small:
            storage_disk = SmallFileSystem(directory / "volumes", _SMALL_MIB)
            if database == "sqlite":
                database_disk = SmallFileSystem(directory / "database", _SMALL_MIB)
        else:
            (directory / "volumes").mkdir()
        below = directory if database_disk is None else database_disk.path
        url = self._database_url(database, below)
        world = World(self.nursery, directory, driver, url, self._broker.url, switched_off)
        return Place(self._broker, self._postgres, storage_disk, database_disk, world)

    def stop(self) -> None:
        self.leave()
        if self._postgres is not None:
            self._postgres.stop()

    def _database_url(self, database: str, directory: Path) -> str:
        if database == "sqlite":
            shutil.copy(self._sqlite_template(), directory / "orchestrator.sqlite")
            url = f"sqlite:///{directory / 'orchestrator.sqlite'}"
        else:
            name = f"world_{self._count}"
            self.postgres().create_database(name, template="migrated")
            url = self.postgres().url(name)
        made = Database(url, pool_size=1)
        with made.write() as connection:
            connection.execute(update(installation).values(uuid=uuid.uuid4().hex))
        made.close()
        return url

    def _sqlite_template(self) -> Path:
        if self._template is None:
            self._template = self.directory / "template.sqlite"
            migrate.upgrade(f"sqlite:///{self._template}")
            with sqlite3.connect(self._template) as connection:
                connection.execute("PRAGMA journal_mode = DELETE")
            connection.close()
        return self._template

    def postgres(self) -> FragilePostgres:
        """The PostgreSQL server of this run, started when it is first asked for."""
        if self._postgres is None:
            self._postgres = FragilePostgres()
            self._postgres.start_in(self.directory)
            self._postgres.create_database("migrated")
            migrate.upgrade(self._postgres.url("migrated"))
        return self._postgres


def pytest_report_header() -> str:
    """The seed, so that a run can be repeated."""
    return CHOICE.told


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Where cells are tried."""
    # In RAM where there is some to use: it is processes that die here, not the machine.
    with room("chaos", tmp_path_factory) as directory:
        directory.chmod(0o711)  # PostgreSQL gives up the rights of root, and lies below
        nursery = Nursery(directory)
        broker = Broker(directory / "broker")
        made = Places(directory, nursery, broker)
        yield made
        made.stop()
        broker.stop()


@pytest.fixture(scope="session")
def passes() -> Passes:
    """The dry runs of this session."""
    return Passes()


@pytest.fixture(scope="session")
def mountable() -> bool:
    """Whether small file systems can be made here."""
    return can_mount()


@pytest.fixture(scope="session")
def record() -> Record:
    """What came of each cell, kept for the table."""
    return _RECORD


_RECORD = Record()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep how the tests of the whole product ended, too."""
    if report.failed and (directory := os.environ.get("CHAOS_RECORD")):
        # A long run tells what fails as it goes.
        Path(directory).mkdir(parents=True, exist_ok=True)
        with (Path(directory) / "failures.txt").open("a") as told:
            told.write(f"{report.nodeid}\n{report.longreprtext}\n\n")
    path, _, name = report.nodeid.partition("::")
    if report.when == "call" and "tests/chaos/" in path and "test_matrix" not in path:
        _RECORD.whole[name] = report.outcome


def pytest_sessionfinish() -> None:
    """Write what was kept, if somebody wants it."""
    if directory := os.environ.get("CHAOS_RECORD"):
        _RECORD.write(Path(directory))
