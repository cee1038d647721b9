"""The driver under the whole engine: workers killed at every request, work that takes its time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.domain.errors import Problem
from orchestrator.nas.private import PrivateEngine
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import jobs
from tests.ontap.conftest import leftovers
from tests.ontap.double import PASSWORD, USER, Double, Fault, Request
from tests.ontap.filer import Filer

#: More requests than a creation takes.
MANY = 40
#: Shares nothing with this process but what was imported: its own connections, its own threads.
_fork = multiprocessing.get_context("fork")

CREATE = {
    "action": "volume.create",
    "volume": "vx",
    "params": {"size_bytes": 64 * 2**20, "settings": {"junction_path": "/x"}},
}


@contextmanager
def engine_on(double: Double, data: Path, **options: Any) -> Iterator[PrivateEngine]:
    """The engine of one process, with a filer as its backend."""
    backend = {
        "driver": "ontap",
        "hostname": "127.0.0.1",
        "port": double.port,
        "scheme": "http",
        "username": USER,
        "password": PASSWORD,
        "vserver": "svm1",
        "poll": 0.01,
        **options,
    }
    engine = PrivateEngine(backend, data)
    yield engine
    engine.close()


def _create(double_port: int, data: Path, ready: Any, go: Any) -> None:
    """What the worker does that will be killed."""

    class There:
        port = double_port

    with engine_on(There(), data) as engine:  # type: ignore[arg-type]
        ready.set()
        go.wait()
        engine.run([CREATE])
    os._exit(0)


def expire_leases(data: Path) -> None:
    """Let the leases of the dead run out, and every back-off come to its end."""
    database = Database(f"sqlite:///{data / 'orchestrator.db'}", pool_size=1)
    with database.write() as connection:
        connection.execute(
            update(jobs).values(lease_expires_at=db_now(-1)).where(jobs.c.state == "running")
        )
        connection.execute(
            update(jobs).values(not_before=db_now(-1)).where(jobs.c.not_before.is_not(None))
        )
    database.close()


def published(double: Double) -> dict[str, str]:
    """The volumes of the SVM that are to be seen and bear a stamp: names and stamps."""
    return {
        one["name"]: one["comment"]
        for one in double.filer.volumes.values()
        if "id=" in one["comment"] and not one["name"].startswith("orchestrator_new_")
    }


@pytest.mark.slow
def test_a_worker_killed_at_any_request_of_a_creation_leaves_one_volume(
    double: Double, tmp_path: Path
) -> None:
    # Behind the effect of each request: before it, things are as behind the one before.
    for number in range(1, MANY):
        double.filer, data = Filer(), tmp_path / str(number)
        double.forget()
        ready, go = _fork.Event(), _fork.Event()
        worker = _fork.Process(target=_create, args=(double.port, data, ready, go))
        worker.start()
        ready.wait()

        def kill(_request: Request, worker: Any = worker) -> None:
            os.kill(worker.pid, signal.SIGKILL)

        double.forget()
        double.faults = [Fault("call after", number=number, hook=kill)]
        go.set()
        worker.join()
        survived = worker.exitcode == 0
        double.forget()
        with engine_on(double, data) as engine:
            if not survived:
                expire_leases(data)
                recover(engine)
            [volume] = engine.volumes()
            assert volume["state"] == "available"
            assert list(published(double)) == ["vx"]
            assert f"id={volume['id']} " in published(double)["vx"]
            assert engine.volume_at("/x")["id"] == volume["id"]
            assert leftovers(double) == []
        if survived:
            return
    raise AssertionError("more requests than expected")


def recover(engine: PrivateEngine) -> None:
    """Let what the dead have left be done."""
    for _ in range(MANY):
        engine.tick()
        if all(not volume["jobs"] for volume in engine.volumes()) and engine.volumes():
            return
        expire_leases(engine.directory)
    raise AssertionError("the job of the dead was not taken up")


def test_a_creation_that_the_filer_refuses_leaves_nothing(double: Double, tmp_path: Path) -> None:
    double.filer.jobs.failing = {1: (524288, "The aggregate has failed.")}
    with engine_on(double, tmp_path) as engine:
        with pytest.raises(Problem):
            engine.run([CREATE])
        assert engine.volumes() == []
        assert published(double) == {}
        assert leftovers(double) == []
        engine.run([CREATE])
        assert list(published(double)) == ["vx"]


def test_what_the_filer_takes_long_for_holds_up_nothing_else(
    double: Double, tmp_path: Path
) -> None:
    with engine_on(double, tmp_path, patience=0) as engine:
        double.filer.jobs.held = True
        ended: list[Any] = []
        waiter = threading.Thread(target=lambda: ended.extend(engine.run([CREATE])))
        waiter.start()
        # Other work is done while the filer is at it, however often that is looked at.
        for _ in range(3):
            [other] = engine.run([{"action": "backend.refresh"}])
            assert other["state"] == "succeeded"
        double.filer.jobs.held = False
        waiter.join()
        [job] = ended
        assert (job["state"], job["attempt"]) == ("succeeded", 1)
        assert list(published(double)) == ["vx"]
