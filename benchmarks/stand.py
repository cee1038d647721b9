"""The stand: a scratch directory and the servers of one run, and what is started on them."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from psycopg import sql

from benchmarks import fleet, past
from benchmarks.celery_rival import CeleryRival
from benchmarks.product import WORKERS, Product
from tests.rigs.postgres import DEBIAN, Postgres


class LeftOut(Exception):
    """An experiment cannot be made on this machine; the message says why."""


class Stand:
    """Everything that a run starts, below one directory that goes with it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="orchestrator-bench-"))
        self.server = Postgres()
        self._numbers = itertools.count(1)

    def __enter__(self) -> Stand:
        self.server.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextmanager
    def debian(self) -> Iterator[Postgres]:
        """A new server of Debian's PostgreSQL 15, with the settings that it is installed with.

        Raises `LeftOut` where the package is not installed.
        """
        if not (DEBIAN / "postgres").exists():
            raise LeftOut("Debian's PostgreSQL 15 is not installed: apt install postgresql-15")
        with _started(Postgres(DEBIAN, max_connections="100")) as server:
            yield server

    @contextmanager
    def another_server(self) -> Iterator[Postgres]:
        """A new server of the stand's own kind."""
        with _started(Postgres()) as server:
            yield server

    @contextmanager
    def product(
        self,
        database: str = "postgresql",
        *,
        server: Postgres | None = None,
        workers: int = WORKERS,
        synchronous_commit: bool = True,
        jobs_before: int = 0,
        volumes_before: int = 0,
        warm: bool = True,
    ) -> Iterator[Product]:
        """A product of its own on a database that is empty, has a past or a fleet.

        ``server``: another than the stand's own. ``warm``: it has done a little of everything.
        """
        server = server or self.server
        number = next(self._numbers)
        name = f"product_{number}"
        url = None
        if database == "postgresql":
            server.create_database(name)
            url = server.url(name)
            if not synchronous_commit:
                server.execute(
                    sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(
                        sql.Identifier(name)
                    )
                )
        product = Product(self.directory / name, url, workers)
        try:
            product.start()
            if jobs_before or volumes_before:
                product.stop()
                if jobs_before:
                    past.write(product.database_url, jobs_before)
                if volumes_before:
                    fleet.write(product.database_url, product.chain_key, volumes_before)
                product.start()
            if warm:
                product.warm_up()
            yield product
        finally:
            product.stop()
            product.erase()
            if url is not None:
                server.drop_database(name)

    @contextmanager
    def celery(self, *, acks_late: bool = False) -> Iterator[CeleryRival]:
        """A Celery worker of its own, warmed up."""
        directory = self.directory / f"celery_{next(self._numbers)}"
        rival = CeleryRival(directory, acks_late=acks_late)
        try:
            rival.start()
            rival.warm_up()
            yield rival
        finally:
            rival.stop()

    def scratch(self, name: str) -> Path:
        """A new directory."""
        made = self.directory / f"{name}_{next(self._numbers)}"
        made.mkdir()
        return made

    def database(self, name: str) -> str:
        """Make an empty database; its URL."""
        self.server.create_database(name)
        return self.server.url(name)


@contextmanager
def _started(server: Postgres) -> Iterator[Postgres]:
    server.start()
    try:
        yield server
    finally:
        server.stop()
