"""The queue as a whole: drained, limited in its rate, and ended jobs that leave it."""

from __future__ import annotations

import gzip
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from orchestrator.domain.errors import (
    BackendDisabled,
    Gone,
    QueueDrained,
    UnknownJob,
    WrongState,
)
from orchestrator.domain.states import JobState
from orchestrator.inventory.backends import configure
from orchestrator.jobs import upkeep
from orchestrator.jobs.archive import archive, ask_for, ask_for_older
from orchestrator.jobs.claim import put_back_blocked
from orchestrator.jobs.intake import queue_view, set_accepting
from orchestrator.jobs.views import has_ended
from orchestrator.settings import BackendSettings, Settings
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import events, job_turns
from tests.engine.conftest import Engine, act, create, grow
from workers.backends.memory.store import Faults


def _accepting(engine: Engine, accepting: bool) -> Any:
    return engine.database.transact(
        lambda connection: set_accepting(connection, accepting, "tests", "maintenance")
    )


def _kinds(engine: Engine, beginning: str) -> list[str]:
    query = select(events.c.kind).where(events.c.kind.startswith(beginning))
    with engine.database.read() as connection:
        return list(connection.execute(query.order_by(events.c.commit_id)).scalars())


def test_a_job_that_has_begun_keeps_its_place_before_an_earlier_one_whose_time_has_come(
    engine: Engine,
) -> None:
    engine.submit(create("v"))
    engine.work()
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    [ahead] = engine.submit(act("volume.verify", "v", run_at=later)).job_ids
    ram = next(one for one in engine.worker.serving.drivers.values() if one.backend == "ram")
    faults = Faults("ram", ram.installation)
    faults.set(operation="grow", kind="unavailable", times=1)
    [begun] = engine.submit(grow("v", "2M")).job_ids
    engine.work()
    assert engine.states([ahead, begun]) == ["waiting", "waiting"]
    engine.time_passes()
    assert engine.states([ahead, begun]) == ["waiting", "queued"]
    # What puts back a job that was queued too early leaves this one, and those that run, alone.
    assert engine.database.transact(put_back_blocked) == 0
    engine.work()
    assert engine.states([ahead, begun]) == ["succeeded", "succeeded"]


# -- drained --------------------------------------------------------------------------------


def test_a_drained_queue_takes_nothing_and_finishes_what_it_has(engine: Engine) -> None:
    [before] = engine.submit(create("a"), idempotency_key="one").job_ids
    view = _accepting(engine, False)
    assert view == {
        "accepting": False,
        "unfinished": {"waiting": 0, "queued": 1, "running": 0},
    }
    with pytest.raises(QueueDrained) as raised:
        engine.submit(create("b"))
    assert "orchestrator queue resume" in raised.value.detail
    with pytest.raises(QueueDrained):
        engine.submit(create("b"), create("c"))
    # What was accepted before is answered again, and goes on.
    assert engine.submit(create("a"), idempotency_key="one").repeated
    engine.work()
    assert engine.states([before]) == ["succeeded"]
    _accepting(engine, True)
    engine.submit(create("b"))
    engine.work()
    assert set(engine.volumes()) == {"a", "b"}


def test_draining_twice_is_one_event_and_backends_can_still_be_drained(engine: Engine) -> None:
    for accepting in (False, False, True, True):
        _accepting(engine, accepting)
    assert _kinds(engine, "queue.") == ["queue.drained", "queue.resumed"]
    _accepting(engine, False)
    [job_id] = engine.submit({"action": "backend.drain", "backend": "ram"}).job_ids
    engine.work()
    assert engine.states([job_id]) == ["succeeded"]
    with engine.database.read() as connection:
        assert queue_view(connection)["unfinished"]["queued"] == 0


# -- limited --------------------------------------------------------------------------------


@pytest.fixture
def limited(settings: Settings) -> Any:
    ram = BackendSettings(driver="memory", capacity="1T", rate_limits={"volume.grow": "1/h"})
    backends = {**settings.backends, "ram": ram}
    made = Engine(
        settings.model_copy(update={"backends": backends}), Database(settings.database_url)
    )
    yield made
    made.close()


def _let_them_go(engine: Engine) -> None:
    """Let all turns come that were given."""
    with engine.database.write() as connection:
        connection.execute(update(job_turns).values(at=db_now(-1.0)))
    engine.time_passes()
    engine.work()


def test_attempts_keep_their_distance_and_their_order(limited: Engine) -> None:
    names = ["a", "b", "c"]
    limited.submit(*[create(name) for name in names])
    limited.work()
    ids = [limited.submit(grow(name, "2M")).job_ids[0] for name in names]
    limited.work()
    views = [limited.job(job_id) for job_id in ids]
    assert [view["state"] for view in views] == ["succeeded", "waiting", "waiting"]
    for view in views[1:]:
        assert view["attempt"] == 0
        assert view["waiting_on"]["kind"] == "limit"
        assert "rate_limits" in view["waiting_on"]["detail"]
    turns = [view["waiting_on"]["until"] for view in views[1:]]
    assert (turns[1] - turns[0]).total_seconds() == pytest.approx(3600.0, abs=60.0)
    _let_them_go(limited)
    assert limited.states(ids) == ["succeeded"] * 3


def test_a_job_that_waits_for_its_turn_keeps_its_place_and_can_be_canceled(
    limited: Engine,
) -> None:
    limited.submit(create("a"))
    limited.work()
    limited.submit(grow("a", "2M"))
    limited.work()
    [second] = limited.submit(grow("a", "3M")).job_ids
    limited.work()
    [third] = limited.submit(act("volume.remove", "a", after="end")).job_ids
    limited.work()
    assert limited.states([second, third]) == ["waiting", "waiting"]
    assert limited.job(third)["waiting_on"]["job"] == second
    limited.cancel(second)
    limited.work()
    limited.work()
    assert limited.states([second, third]) == ["canceled", "succeeded"]


def test_the_turns_of_canceled_jobs_are_free_again(limited: Engine) -> None:
    names = [f"v{number}" for number in range(6)]
    limited.submit(*[create(name) for name in names])
    limited.work()
    ids = [limited.submit(grow(name, "2M")).job_ids[0] for name in names[:5]]
    limited.work()
    second = limited.job(ids[1])["waiting_on"]["until"]
    for job_id in ids[1:]:
        limited.cancel(job_id)
    limited.work()
    assert limited.states(ids) == ["succeeded", *["canceled"] * 4]
    [late] = limited.submit(grow(names[5], "2M")).job_ids
    limited.work()
    until = limited.job(late)["waiting_on"]["until"]
    assert (until - second).total_seconds() == pytest.approx(0.0, abs=60.0)
    deleted = limited.database.transact(lambda c: upkeep.retain(c, idempotency_days=7))
    assert deleted["turns"] == 4


def test_a_turn_is_kept_until_its_time_whoever_has_died(limited: Engine) -> None:
    limited.submit(create("a"), create("b"))
    limited.work()
    limited.submit(grow("a", "2M"))
    [job_id] = limited.submit(grow("b", "2M")).job_ids
    limited.work()
    assert limited.job(job_id)["waiting_on"]["kind"] == "limit"
    for _ in range(3):  # a worker that dies before it has put the job off again
        limited.time_passes()
        limited.work()
        assert limited.job(job_id)["state"] == "waiting"
        assert limited.volumes()["b"]["size_bytes"] == 2**20
    _let_them_go(limited)
    assert limited.states([job_id]) == ["succeeded"]


@pytest.mark.parametrize("rate", ["10", "0/min", "10/year", "ten/min", "10/min/h"])
def test_what_is_no_rate_is_refused(rate: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        BackendSettings(driver="memory", rate_limits={"volume.grow": rate})


def test_a_rate_of_no_action_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no action"):
        BackendSettings(driver="memory", rate_limits={"volume.shrink": "1/s"})


# -- archived -------------------------------------------------------------------------------


def _archive(engine: Engine, days: float | None = None) -> int:
    directory = engine.settings.archive
    return engine.database.transact(
        lambda connection: archive(connection, directory, older_than_days=days)
    )


def _read(directory: Path) -> list[Any]:
    lines: list[Any] = []
    for path in sorted(directory.iterdir()):
        assert path.stat().st_mode & 0o777 == 0o600
        with gzip.open(path, "rt") as file:
            lines += [json.loads(line) for line in file]
    return lines


def test_jobs_that_were_asked_for_leave_the_database_for_a_file(engine: Engine) -> None:
    ended = engine.submit(create("a"), create("b")).job_ids
    engine.work()
    [kept] = engine.submit(create("c")).job_ids
    engine.work()
    assert engine.database.transact(lambda connection: ask_for(connection, ended)) == 2
    assert engine.database.transact(lambda connection: ask_for(connection, ended)) == 0
    assert _archive(engine) == 2
    assert _archive(engine) == 0
    archived = _read(engine.settings.archive)
    assert [job["id"] for job in archived] == ended
    assert archived[0]["state"] == "succeeded"
    assert archived[0]["finished_at"].endswith("Z")
    assert archived[0]["result"]["size_bytes"] == 2**20
    with pytest.raises(Gone, match="event list --job"):
        engine.job(ended[0])
    with engine.database.read() as connection, pytest.raises(Gone):
        has_ended(connection, "job", ended[1])
    with pytest.raises(Gone):
        engine.cancel(ended[0])
    with pytest.raises(Gone):
        engine.database.transact(lambda connection: ask_for(connection, ended))
    # What depends on one that had succeeded may run.
    [after] = engine.submit(grow("a", "2M", depends_on=[ended[0]])).job_ids
    engine.work()
    assert engine.states([after]) == ["succeeded"]
    assert engine.job(kept)["state"] == "succeeded"
    assert _kinds(engine, "jobs.") == ["jobs.archived"]


def test_only_ended_jobs_are_archived_by_name_or_by_age(engine: Engine) -> None:
    [ended] = engine.submit(create("a")).job_ids
    engine.work()
    [waiting] = engine.submit(create("b", run_at="2999-01-01T00:00:00Z")).job_ids
    with pytest.raises(WrongState, match=f"job {waiting} is waiting"):
        engine.database.transact(lambda connection: ask_for(connection, [ended, waiting]))
    with pytest.raises(UnknownJob):
        engine.database.transact(lambda connection: ask_for(connection, [ended, 999]))
    assert _archive(engine) == 0
    with engine.database.read() as connection:
        now = connection.execute(select(db_now())).scalar_one()
    assert engine.database.transact(lambda connection: ask_for_older(connection, now)) == 1
    assert _archive(engine) == 1
    assert engine.job(waiting)["state"] == JobState.WAITING


def test_old_jobs_are_archived_by_themselves(engine: Engine) -> None:
    [ended] = engine.submit(create("a")).job_ids
    engine.work()
    assert _archive(engine, days=1.0) == 0
    time.sleep(0.01)
    assert _archive(engine, days=1e-9) == 1
    assert [job["id"] for job in _read(engine.settings.archive)] == [ended]


def test_a_directory_that_cannot_be_written_to_keeps_the_jobs(engine: Engine) -> None:
    [ended] = engine.submit(create("a")).job_ids
    engine.work()
    engine.database.transact(lambda connection: ask_for(connection, [ended]))
    engine.settings.archive.write_text("not a directory")
    with pytest.raises(FileExistsError):
        _archive(engine)
    assert engine.job(ended)["state"] == "succeeded"


def test_no_time_and_no_job_is_refused() -> None:
    from orchestrator.api.routes.jobs import ToArchive

    for written in ({}, {"jobs": [1], "ended_before": "2026-01-01T00:00:00Z"}):
        with pytest.raises(ValueError, match="either jobs or ended_before"):
            ToArchive.model_validate(written)


def test_a_backend_that_the_configuration_disables_is_enabled_there(engine: Engine) -> None:
    settings = engine.settings.backends
    off = {**settings, "ram": settings["ram"].model_copy(update={"enabled": False})}
    engine.database.transact(lambda connection: configure(connection, off))
    for request in (
        create("a"),
        {"action": "backend.resume", "backend": "ram"},
        {"action": "backend.drain", "backend": "ram"},
    ):
        with pytest.raises(BackendDisabled, match="enabled = false"):
            engine.submit(request)
    engine.database.transact(lambda connection: configure(connection, settings))
    engine.submit(create("a"))
    engine.work()
    assert list(engine.volumes()) == ["a"]
