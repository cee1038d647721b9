"""The engine in one process: real database, real broker, real drivers, stepped by the test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.actions.requests import parse_request
from orchestrator.domain.actors import Actor
from orchestrator.domain.states import NEXT_JOB_STATES, NEXT_VOLUME_STATES, Role
from orchestrator.jobs import upkeep
from orchestrator.jobs.cancel import cancel
from orchestrator.jobs.finish import Finished
from orchestrator.jobs.submission import Accepted, Submission
from orchestrator.jobs.submit import submit
from orchestrator.jobs.turns import Turns
from orchestrator.jobs.views import View, batch_view, job_view
from orchestrator.jobs.wakeups import Wakeups
from orchestrator.resources.volume.views import list_volumes
from orchestrator.settings import Settings
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import jobs
from tests.conformance.systems import release_loops
from workers.leases import Leases
from workers.runner import Runner
from workers.serving import Serving

ADMIN = Actor("tests", Role.ADMIN)


class Worker:
    """A worker process's inside, without the process."""

    def __init__(self, settings: Settings, database: Database, name: str) -> None:
        self.serving = Serving(settings, database)
        self.serving.look_at_all()
        self.leases = Leases(
            database,
            lease_seconds=settings.worker.lease_seconds,
            beat_seconds=3600.0,
            time_limits={name: one.time_limits for name, one in settings.backends.items()},
        )
        self.wakeups = Wakeups(settings.broker_url)
        self.runner = Runner(
            settings, database, self.serving, self.leases, self.wakeups, worker=name
        )

    def work(self) -> None:
        """Take from every queue until all are empty."""
        for queue in self.runner.queues:
            self.runner.drain(queue)

    def close(self) -> None:
        self.leases.close()
        self.wakeups.close()
        self.runner.close()


class Engine:
    """What tests do with the engine. ``ram`` is a memory backend, ``fast`` a file backend."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings = settings
        self.database = database
        self.worker = Worker(settings, database, "worker-1")
        self._others: list[Worker] = []

    def another_worker(self, name: str = "worker-2") -> Worker:
        worker = Worker(self.settings, self.database, name)
        self._others.append(worker)
        return worker

    def submit(
        self,
        *requests: dict[str, Any],
        batch: bool | None = None,
        actor: Actor = ADMIN,
        turns: Turns | None = None,
        **options: Any,
    ) -> Accepted:
        submission = Submission(
            requests=[parse_request(request) for request in requests],
            actor=actor,
            batch=len(requests) > 1 if batch is None else batch,
            **options,
        )
        return self.database.transact(
            lambda connection: submit(connection, submission, max_attempts=5, turns=turns)
        )

    def job(self, job_id: int) -> View:
        with self.database.read() as connection:
            return job_view(connection, job_id)

    def batch(self, batch_id: int) -> View:
        with self.database.read() as connection:
            return batch_view(connection, batch_id)

    def states(self, job_ids: Sequence[int]) -> list[str]:
        return [str(self.job(job_id)["state"]) for job_id in job_ids]

    def volumes(self, backend: str = "ram") -> dict[str, View]:
        with self.database.read() as connection:
            found = list_volumes(
                connection, backend, states=[], prefix=None, after=None, limit=1000
            )
        return {view["name"]: view for view in found}

    def cancel(self, job_id: int) -> Finished:
        return self.database.transact(lambda connection: cancel(connection, job_id, "tests"))

    def work(self) -> None:
        """Let the one worker do everything that is queued."""
        self.worker.work()

    def time_passes(self) -> None:
        """Let every start time and back-off come, and every lease of a running job run out."""
        with self.database.write() as connection:
            connection.execute(
                update(jobs).where(jobs.c.not_before.is_not(None)).values(not_before=db_now(-1.0))
            )
            connection.execute(
                update(jobs).where(jobs.c.state == "running").values(lease_expires_at=db_now(-1.0))
            )
        self.database.transact(upkeep.queue_due)
        self.database.transact(upkeep.reclaim_expired)

    def close(self) -> None:
        for worker in (self.worker, *self._others):
            worker.close()
        self.database.close()


@pytest.fixture
def tmp_path(files_in_ram: Path) -> Iterator[Path]:
    """What is tried here is the engine: neither it nor its volumes need wait for a disk."""
    directory = Path(tempfile.mkdtemp(dir=files_in_ram))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def settings(tmp_path: Path, migrated_url: str, broker_url: str) -> Settings:
    path = tmp_path / "volumes"
    path.mkdir()
    return Settings(
        data=tmp_path,
        host="here",
        database={"url": migrated_url},
        broker={"url": broker_url},
        backends={
            "ram": {"driver": "memory", "capacity": "1T"},
            "fast": {"driver": "file", "path": str(path)},
        },
    )


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    database = Database(settings.database_url)
    refuse_other_states(database)
    made = Engine(settings, database)
    yield made
    made.close()
    release_loops(settings.data / "volumes")
    shutil.rmtree(settings.data / "volumes", ignore_errors=True)


def refuse_other_states(database: Database) -> None:
    """Let SQLite refuse every change of a state that the tables of states do not have."""
    if database.engine.dialect.name != "sqlite":
        return
    tables: dict[str, Mapping[Any, frozenset[Any]]] = {
        "jobs": NEXT_JOB_STATES,
        "volumes": NEXT_VOLUME_STATES,
    }
    with database.write() as connection:
        for table, following in tables.items():
            known = ", ".join(
                f"'{one}>{other}'" for one, others in following.items() for other in others
            )
            connection.connection.exec_driver_sql(
                f"CREATE TRIGGER declared_{table} BEFORE UPDATE OF state ON {table}"
                " WHEN OLD.state <> NEW.state"
                f" AND OLD.state || '>' || NEW.state NOT IN ({known})"
                " BEGIN SELECT RAISE(FAIL, 'no such change of state is declared'); END"
            )


def create(
    volume: str, size: int | str = "1M", backend: str = "ram", **more: Any
) -> dict[str, Any]:
    """A request to create a volume."""
    return {
        "action": "volume.create",
        "backend": backend,
        "volume": volume,
        "params": {"size_bytes": size},
        **more,
    }


def act(action: str, volume: str, backend: str = "ram", **more: Any) -> dict[str, Any]:
    """A request for any other action."""
    return {"action": action, "backend": backend, "volume": volume, **more}


def grow(volume: str, size: int | str, backend: str = "ram", **more: Any) -> dict[str, Any]:
    """A request to grow a volume."""
    return act("volume.grow", volume, backend, params={"size_bytes": size}, **more)
