"""Schedules: each runs once a period, whatever happens to schedulers and clocks; retention."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from orchestrator.actions.schedules import ScheduleSpec
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import (
    AlreadyExists,
    IdempotencyMismatch,
    NotAllowed,
    UnknownSchedule,
)
from orchestrator.domain.states import Role
from orchestrator.jobs.queued import Wake
from orchestrator.resources.volume import locks
from orchestrator.resources.volume.views import list_snapshots
from orchestrator.schedules import book
from orchestrator.schedules.by_hand import run_now
from orchestrator.schedules.due import mend_schedules, run_due
from orchestrator.schedules.running import SendWake
from orchestrator.settings import Settings
from orchestrator.store.columns import db_now
from orchestrator.store.database import Database
from orchestrator.store.tables import events, jobs, schedule_jobs, schedules
from tests.engine.conftest import ADMIN, Engine, act, create
from workers.scheduler import Scheduler

#: Far enough ahead that no schedule made today is early.
DAY = datetime(2031, 3, 3, tzinfo=UTC)


def at(hours: float, days: int = 0) -> datetime:
    return DAY + timedelta(days=days, hours=hours)


def put(engine: Engine, name: str = "hourly", **changed: Any) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "cron": "0 * * * *",
        "action": "snapshot.create",
        "backend": "ram",
        "volumes": ["vm*"],
    }
    spec = ScheduleSpec.model_validate(wanted | changed)
    return engine.database.transact(
        lambda connection: book.put(connection, name, spec, ADMIN, replace=True)
    )


def show(engine: Engine, name: str = "hourly") -> dict[str, Any]:
    return engine.database.look(lambda connection: book.schedule_view(connection, name))


def nobody(_wake: Wake) -> None:
    """Wakes nobody: tests let the worker look."""


def tick(
    engine: Engine,
    now: datetime,
    database: Database | None = None,
    send: SendWake = nobody,
    exports: Path | None = None,
) -> None:
    """What a scheduler does at a moment."""
    database = database or engine.database
    mend_schedules(database, now)
    exports = exports or engine.settings.exports
    run_due(database, max_attempts=5, exports=exports, send=send, now=now)


def runs(engine: Engine, action: str = "snapshot.create") -> list[tuple[datetime, str | None, int]]:
    """For which periods there are jobs, on which volumes, and how many."""
    with engine.database.read() as connection:
        found = connection.execute(
            select(schedule_jobs.c.due_at, jobs.c.volume, func.count())
            .join(jobs, jobs.c.id == schedule_jobs.c.job_id)
            .where(jobs.c.action == action)
            .group_by(schedule_jobs.c.due_at, jobs.c.volume)
            .order_by(schedule_jobs.c.due_at, jobs.c.volume)
        ).all()
        every = connection.execute(
            select(func.count()).select_from(jobs).where(jobs.c.action == action)
        ).scalar_one()
    assert every == sum(count for _, _, count in found), "every job is noted"
    return [tuple(row) for row in found]


def snapshots(engine: Engine, volume: str = "vm1", backend: str = "ram") -> list[str]:
    with engine.database.read() as connection:
        found = list_snapshots(connection, backend, volume, after=None, limit=1000)
    return [one["name"] for one in found]


@pytest.fixture
def volumes(engine: Engine) -> Engine:
    engine.submit(create("vm1"), create("vm2"), create("other"))
    engine.work()
    return engine


# -- once a period --------------------------------------------------------------------------


def test_a_schedule_runs_once_a_period_and_catches_up_once(volumes: Engine) -> None:
    assert put(volumes)["next_at"] < at(0), "its time has come long ago"
    for hour in (10.01, 10.02, 10.99, 11.0, 15.5, 15.6):
        tick(volumes, at(hour))
    assert runs(volumes) == [
        (at(hour), volume, 1) for hour in (10, 11, 15) for volume in ("vm1", "vm2")
    ]
    found = show(volumes)
    assert (found["next_at"], found["last_run_at"]) == (at(16), at(15.5))
    assert found["last_result"]["due_at"] == "2031-03-03T15:00:00Z"
    assert (found["last_result"]["submitted"], found["last_result"]["refused"]) == (2, [])
    volumes.work()
    assert show(volumes)["last_jobs"] == {"succeeded": 2}
    assert snapshots(volumes) == [f"hourly-20310303T{hour}0000Z" for hour in (10, 11, 15)]
    [job] = {volumes.job(one)["reason"] for one in show(volumes)["last_result"]["jobs"]}
    assert job == "schedule hourly"


#: Moments, and the period that is run for at each, if one is.
JUMPING: list[tuple[datetime, datetime | None]] = [
    (at(10.01), at(10)),
    (at(11.0), at(11)),
    (at(13.2), at(13)),  # two have come: the latest is run for
    (at(10.9), None),  # back by hours: what was run for is not repeated
    (at(11.5), None),
    (at(12.1), at(12)),  # that one had been left out
    (at(13.0), None),
    (at(14.0), at(14)),
    (at(13.9999), None),  # back by a little
    (at(14.0001), None),
    (at(15.1), at(15)),
    (at(9.5, days=400), at(9, days=400)),  # far ahead …
    (at(10.5, days=400), at(10, days=400)),
    (at(15.2), None),  # … and back: it is not dead
    (at(16.3), at(16)),
    (at(17.3), at(17)),
]


def test_two_schedulers_and_a_jump_of_the_clock_run_each_period_once(
    volumes: Engine, settings: Settings
) -> None:
    put(volumes)
    put(volumes, "check", action="backend.refresh", volumes=None)
    moments = [moment for moment, _ in JUMPING]
    both = threading.Barrier(2, timeout=60)
    failed: list[BaseException] = []

    def scheduler() -> None:
        database = Database(settings.database_url, pool_size=2)
        try:
            for moment in moments:
                both.wait()
                tick(volumes, moment, database)
        except BaseException as error:
            failed.append(error)
            both.abort()
        finally:
            database.close()

    threads = [threading.Thread(target=scheduler) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    periods = sorted(due for _, due in JUMPING if due is not None)
    assert runs(volumes) == [(due, volume, 1) for due in periods for volume in ("vm1", "vm2")]
    assert runs(volumes, "backend.refresh") == [(due, None, 1) for due in periods]


def test_a_scheduler_runs_at_each_moment_what_it_should(volumes: Engine) -> None:
    put(volumes)
    for moment, due in JUMPING:
        before = {row[0] for row in runs(volumes)}
        tick(volumes, moment)
        assert {row[0] for row in runs(volumes)} - before == ({due} if due else set()), moment
        assert (show(volumes)["last_run_at"] == moment) == (due is not None), moment


@pytest.fixture
def schedulers(settings: Settings) -> Iterator[list[Scheduler]]:
    made = [Scheduler(settings), Scheduler(settings)]
    yield made
    for scheduler in made:
        scheduler.close()


def test_two_real_schedulers_run_what_is_due_now(
    volumes: Engine, schedulers: list[Scheduler]
) -> None:
    put(volumes, cron="0 0 1 1 *")
    with volumes.database.write() as connection:
        connection.execute(update(schedules).values(next_at=db_now(-60.0)))
    threads = [threading.Thread(target=one._run_schedules) for one in schedulers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row[1:] for row in runs(volumes)] == [("vm1", 1), ("vm2", 1)]
    for one in schedulers:
        one._run_schedules()
        one._mend_schedules()
    assert len(runs(volumes)) == 2


def test_a_run_that_was_broken_off_is_finished_and_not_repeated(volumes: Engine) -> None:
    put(volumes, keep={"last": 1})
    tick(volumes, at(10.1))
    volumes.work()

    class Killed(Exception):
        pass

    def die(_queues: Wake) -> None:
        raise Killed  # after the commit of the new snapshots, before anything else

    tick(volumes, at(11.1), send=die)
    assert show(volumes)["next_at"] == at(11), "it is not noted"
    assert runs(volumes, "snapshot.delete") == []
    tick(volumes, at(11.2))
    assert [row[2] for row in runs(volumes)] == [1] * 4
    assert runs(volumes, "snapshot.delete") == [(at(11), "vm1", 1), (at(11), "vm2", 1)]
    result = show(volumes)["last_result"]
    assert (result["submitted"], result["deletions"]) == (2, 2)
    assert show(volumes)["next_at"] == at(12)


def test_what_is_refused_is_told_and_keeps_nobody_else_from_it(volumes: Engine) -> None:
    volumes.submit(act("volume.restrict", "vm1"))
    volumes.work()
    put(volumes)
    put(volumes, "check", action="backend.refresh", volumes=None)
    tick(volumes, at(10.1))
    result = show(volumes)["last_result"]
    assert (result["submitted"], result["refused_in_all"]) == (1, 1)
    [refused] = result["refused"]
    assert (refused["volume"], refused["code"]) == ("vm1", "wrong_state")
    assert [row[1] for row in runs(volumes)] == ["vm2"]
    assert len(runs(volumes, "backend.refresh")) == 1


def test_one_that_is_not_valid_any_more_is_told_once_a_period(volumes: Engine) -> None:
    put(volumes)
    with volumes.database.write() as connection:
        connection.execute(update(schedules).values(params={"since": "another version"}))
    tick(volumes, at(10.1))
    found = show(volumes)
    assert found["last_result"]["refused"][0]["code"] == "unknown_parameter"
    assert found["next_at"] == at(11)


def test_a_disabled_schedule_rests_and_catches_nothing_up(volumes: Engine) -> None:
    put(volumes, enabled=False)
    tick(volumes, at(10.1))
    assert runs(volumes) == []
    assert show(volumes)["next_at"] is None
    volumes.database.transact(lambda c: book.set_enabled(c, "hourly", True, ADMIN))
    now = volumes.database.look(lambda c: c.execute(select(db_now())).scalar_one())
    assert show(volumes)["next_at"] > now


# -- retention ------------------------------------------------------------------------------


def test_only_its_own_snapshots_are_deleted_and_only_after_success(volumes: Engine) -> None:
    put(volumes, keep={"last": 2})
    put(volumes, "also", keep={"last": 1})
    volumes.submit(act("snapshot.create", "vm1", snapshot="hourly-20310303T000000Z"))
    volumes.work()
    for hour in (10.1, 11.1, 12.1):
        tick(volumes, at(hour))
        volumes.work()
    mine = "hourly-20310303T000000Z"
    assert set(snapshots(volumes)) == {
        mine,
        *("hourly-20310303T110000Z", "hourly-20310303T120000Z", "also-20310303T120000Z"),
    }
    tick(volumes, at(13.1))
    [new] = [
        row["id"]
        for one in range(*_span(volumes))
        if (row := volumes.job(one))["snapshot"] == "hourly-20310303T130000Z"
        and row["volume"] == "vm1"
    ]
    volumes.cancel(new)
    volumes.work()
    assert "hourly-20310303T110000Z" in snapshots(volumes), "the new one did not come"
    assert "hourly-20310303T110000Z" not in snapshots(volumes, "vm2")
    told = show(volumes)
    assert told["last_jobs"] == {"succeeded": 2, "canceled": 2}
    assert [one["action"] for one in told["failed"]] == ["snapshot.create", "snapshot.delete"]
    tick(volumes, at(14.1))
    volumes.work()
    assert set(snapshots(volumes)) >= {"hourly-20310303T120000Z", "hourly-20310303T140000Z", mine}
    assert "hourly-20310303T110000Z" not in snapshots(volumes), "it is tried again"


def _span(engine: Engine) -> tuple[int, int]:
    first, last = show(engine)["last_result"]["jobs"]
    return first, last + 1


def test_a_snapshot_that_may_not_be_deleted_stays_and_is_told(volumes: Engine) -> None:
    put(volumes, keep={"hourly": 1})
    tick(volumes, at(10.1))
    volumes.work()
    operator = Actor("somebody", Role.OPERATOR)
    volumes.database.transact(
        lambda c: locks.take(c, "ram", "vm1", "node1", operator, reason=None, seconds=None)
    )
    tick(volumes, at(11.1))
    volumes.work()
    assert len(snapshots(volumes)) == 2
    assert len(snapshots(volumes, "vm2")) == 1
    [refused] = show(volumes)["last_result"]["refused"]
    assert (refused["code"], refused["volume"]) == ("locked", "vm1")
    assert refused["snapshot"] == "hourly-20310303T100000Z"
    volumes.database.transact(
        lambda c: locks.release(c, "ram", "vm1", "node1", operator, force=False, reason=None)
    )
    tick(volumes, at(12.1))
    volumes.work()
    assert snapshots(volumes) == ["hourly-20310303T120000Z"], "it is tried again"


def test_deletions_that_are_under_way_are_not_asked_for_twice(volumes: Engine) -> None:
    put(volumes, keep={"last": 1})
    tick(volumes, at(10.1))
    volumes.work()
    tick(volumes, at(11.1))
    tick(volumes, at(12.1))
    assert show(volumes)["last_result"]["refused"] == []
    volumes.work()
    tick(volumes, at(13.1))
    volumes.work()
    assert snapshots(volumes) == ["hourly-20310303T130000Z"]


def test_a_schedule_that_was_made_anew_leaves_the_snapshots_of_the_old_one(
    volumes: Engine,
) -> None:
    put(volumes, keep={"last": 1})
    tick(volumes, at(10.1))
    volumes.work()
    volumes.database.transact(lambda c: book.remove(c, "hourly", ADMIN))
    with pytest.raises(UnknownSchedule):
        show(volumes)
    put(volumes, keep={"last": 1})
    tick(volumes, at(11.1))
    volumes.work()
    assert len(snapshots(volumes)) == 2


# -- by hand --------------------------------------------------------------------------------


def by_hand(engine: Engine, key: str | None = None, actor: Actor = ADMIN) -> dict[str, Any]:
    return run_now(engine.database, "hourly", actor, max_attempts=5, wake=nobody, key=key)


def test_a_run_by_hand_is_noted_and_changes_no_next_time(volumes: Engine) -> None:
    before = put(volumes, enabled=False)
    first = by_hand(volumes, "a key")
    assert len(first["job_ids"]) == 2
    assert by_hand(volumes, "a key") == first, "the same key is the same run"
    volumes.work()
    found = show(volumes)
    assert found["last_jobs"] == {"succeeded": 2}
    assert found["last_result"]["due_at"] == first["due_at"]
    assert (found["next_at"], found["enabled"]) == (before["next_at"], False)
    put(volumes, "also")
    with pytest.raises(IdempotencyMismatch):
        run_now(volumes.database, "also", ADMIN, max_attempts=5, wake=nobody, key="a key")


def test_jobs_of_a_schedule_have_no_more_than_the_action_needs(volumes: Engine) -> None:
    spec = ScheduleSpec(cron="0 * * * *", action="backend.verify", backend="ram")
    less = Actor("somebody", Role.OPERATOR)
    with pytest.raises(NotAllowed, match="admin"):
        volumes.database.transact(lambda c: book.put(c, "verify", spec, less, replace=True))


def test_every_change_is_an_event(volumes: Engine) -> None:
    put(volumes)
    put(volumes)  # changes nothing
    put(volumes, keep={"daily": 7}, volumes=["*"])
    volumes.database.transact(lambda c: book.set_enabled(c, "hourly", False, ADMIN))
    volumes.database.transact(lambda c: book.remove(c, "hourly", ADMIN))
    with volumes.database.read() as connection:
        found = connection.execute(
            select(events.c.kind, events.c.actor, events.c.backend, events.c.data)
            .where(events.c.kind.like("schedule.%"))
            .order_by(events.c.commit_id)
        ).all()
    assert [row.kind.partition(".")[2] for row in found] == [
        *("created", "changed", "changed", "removed")
    ]
    assert {(row.actor, row.backend) for row in found} == {("tests", "ram")}
    assert (found[1].data["before"]["keep"], found[1].data["after"]["keep"]) == (
        None,
        {"last": 0, "hourly": 0, "daily": 7, "weekly": 0},
    )
    assert "after" not in found[3].data


def test_a_name_is_taken_over_only_if_that_was_said(volumes: Engine) -> None:
    put(volumes)
    spec = ScheduleSpec(cron="0 0 * * *", action="backend.refresh", backend="ram")
    with pytest.raises(AlreadyExists):
        volumes.database.transact(lambda c: book.put(c, "hourly", spec, ADMIN, replace=False))
    assert show(volumes)["cron"] == "0 * * * *"
