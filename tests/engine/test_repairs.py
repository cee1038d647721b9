"""Repairs by rule, with approval, and in a database that was restored."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import InvalidInput, NotAllowed, VolumeReplaced, WrongState
from orchestrator.domain.states import Role
from orchestrator.findings.repairing import repair_submission
from orchestrator.jobs.approvals import approve
from orchestrator.jobs.cancel import cancel
from orchestrator.jobs.retry import retry_request
from orchestrator.jobs.upkeep import queue_due
from orchestrator.ledger import restored
from orchestrator.resources.volume.locks import release, take
from orchestrator.settings import Settings
from orchestrator.store.tables import events
from tests.engine.conftest import ADMIN, Engine, act, create, grow
from tests.engine.test_audits import Audited, lock_of_the_dead
from workers.scheduler import Scheduler

pytestmark = pytest.mark.either_database

Schedules = Callable[..., Scheduler]


@pytest.fixture
def audited(engine: Engine) -> Audited:
    made = Audited(engine)
    made.do(*(create(f"vm{n}") for n in range(10)))
    return made


@pytest.fixture
def scheduler(settings: Settings) -> Iterator[Schedules]:
    """Makes schedulers with other settings of audits."""
    made: list[Scheduler] = []

    def make(**audit: Any) -> Scheduler:
        given = {"grace_hours": 0.0, "most_percent": 50.0, **audit}
        changed = settings.audit.model_copy(update=given)
        made.append(Scheduler(settings.model_copy(update={"audit": changed})))
        return made[-1]

    yield make
    for one in made:
        one.close()


def lose(audited: Audited, *names: str) -> None:
    for name in names:
        audited.storage_sql("DELETE FROM volumes WHERE name = ?", name)


def number(scheduler: Scheduler) -> None:
    """Let events have numbers and links, and the scheduler remember the newest."""
    scheduler._number_events()
    scheduler._busy_until = 0.0
    scheduler._chain_events()
    scheduler._watch_restores()


# -- rules --------------------------------------------------------------------------------


def test_without_a_rule_nothing_is_repaired(audited: Audited, scheduler: Schedules) -> None:
    lose(audited, "vm1")
    audited.audit("ram")
    scheduler()._repair_by_rule()
    audited.work()
    assert "vm1" in audited.engine.volumes()


def test_a_rule_repairs_once_and_says_why(audited: Audited, scheduler: Schedules) -> None:
    lose(audited, "vm1")
    audited.audit("ram")
    rules = {"rules": {"ghost": "forget"}}
    # Two schedulers, and each twice.
    for one in (scheduler(**rules), scheduler(**rules)):
        one._repair_by_rule()
        one._repair_by_rule()
    [found] = audited.findings()
    job = audited.engine.job(found["repair_job"])
    assert (job["action"], job["volume"], job["submitted_by"]) == (
        "volume.forget",
        "vm1",
        "orchestrator",
    )
    assert "rule for findings of the kind ghost" in job["reason"]
    with audited.engine.database.read() as connection:
        count = connection.execute(
            text("SELECT count(*) FROM jobs WHERE action = :a"), {"a": "volume.forget"}
        ).scalar()
    assert count == 1
    audited.work()
    assert "vm1" not in audited.engine.volumes()
    assert audited.audit("ram")["findings"] == {}


def test_a_rule_does_nothing_where_too_much_differs(audited: Audited, scheduler: Schedules) -> None:
    lose(audited, *(f"vm{n}" for n in range(6)))
    audited.audit("ram")
    one = scheduler(rules={"ghost": "forget"})
    one._repair_by_rule()
    assert [found["repair_job"] for found in audited.findings()] == [None] * 6


def test_a_rule_waits_for_the_grace_time(audited: Audited, scheduler: Schedules) -> None:
    lose(audited, "vm1")
    audited.audit("ram")
    scheduler(rules={"ghost": "forget"}, grace_hours=1.0)._repair_by_rule()
    assert [found["repair_job"] for found in audited.findings()] == [None]


def test_a_lost_volume_is_never_made_anew_without_a_person(
    audited: Audited, scheduler: Schedules
) -> None:
    lose(audited, "vm1")
    audited.audit("ram")
    scheduler(rules={"ghost": "recreate"})._repair_by_rule()
    [found] = audited.findings()
    job_id = found["repair_job"]
    audited.engine.database.transact(queue_due)
    audited.work()
    assert audited.engine.job(job_id)["waiting_on"]["kind"] == "approval"
    assert "vm1" not in {facts.name for facts in audited.ram().list_volumes()}
    audited.engine.database.transact(lambda c: approve(c, job_id, ADMIN, "tests"))
    audited.engine.database.transact(queue_due)
    audited.work()
    assert audited.engine.states([job_id]) == ["succeeded"]
    assert audited.audit("ram")["findings"] == {}


# -- restored databases -------------------------------------------------------------------


def test_in_a_restored_database_rules_wait_for_a_person(
    audited: Audited, scheduler: Schedules, database_kind: str, tmp_path: Path
) -> None:
    """What was made after the backup has no record: it is not removed, nor is anything else."""
    if database_kind != "sqlite":
        pytest.skip("a copy of the file is the backup")
    engine = audited.engine
    rules = {"rules": {"ghost": "forget", "orphan": "remove"}}
    one = scheduler(**rules)
    number(one)
    audited.do(create("new"))
    backup = tmp_path / "backup.db"
    _copy(_path(engine), backup)
    # The record of what follows is lost.
    audited.do(act("volume.remove", "new"), create("newer"))
    number(one)
    _copy(backup, _path(engine))
    lose(audited, "vm1")
    found = audited.audit("ram")["findings"]
    assert found == {"ghost": 2, "orphan": 1}
    again = scheduler(**rules)
    again._repair_by_rule()
    assert [one["repair_job"] for one in audited.findings()] == [None] * 3
    with engine.database.read() as connection:
        assert restored.state(connection)["restored_at"] is not None
    engine.database.transact(lambda c: restored.acknowledge(c, "tests", "looked at it"))
    again._repair_by_rule()
    kinds = {one["kind"]: one["repair_job"] is not None for one in audited.findings()}
    assert kinds == {"ghost": True, "orphan": False}, "whose stamp is unknown is never removed"


def _path(engine: Engine) -> str:
    return engine.settings.database_url.removeprefix("sqlite:///")


def _copy(source: str | Path, to: str | Path) -> None:
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(to)) as other:
        one.backup(other)


def test_a_database_that_goes_on_is_not_taken_for_a_restored_one(
    audited: Audited, scheduler: Schedules
) -> None:
    one = scheduler()
    for n in range(3):
        audited.do(grow(f"vm{n}", "2M"))
        number(one)
    other = scheduler()
    other._watch_restores()
    with audited.engine.database.read() as connection:
        assert restored.state(connection) == {"restored_at": None}


# -- asking for repairs -------------------------------------------------------------------


def test_a_repair_that_is_not_possible_is_refused(audited: Audited) -> None:
    lose(audited, "vm1")
    audited.audit("ram")
    [found] = audited.findings()
    with (
        audited.engine.database.read() as connection,
        pytest.raises(InvalidInput, match="possible are: forget, recreate"),
    ):
        repair_submission(connection, found["id"], "adopt", ADMIN)
    assert audited.repair(found["id"], "forget")["state"] == "succeeded"
    audited.audit("ram")
    with audited.engine.database.read() as connection, pytest.raises(WrongState):
        repair_submission(connection, found["id"], "forget", ADMIN)


def test_what_is_there_is_not_made_anew(audited: Audited) -> None:
    [job_id] = audited.engine.submit(act("volume.recreate", "vm1")).job_ids
    audited.engine.database.transact(lambda c: approve(c, job_id, ADMIN, None))
    audited.engine.database.transact(queue_due)
    audited.work()
    job = audited.engine.job(job_id)
    assert (job["state"], job["error"]["code"]) == ("failed", "conflict")


# -- approvals ----------------------------------------------------------------------------


def test_a_job_that_waits_for_an_approval_blocks_nobody(audited: Audited) -> None:
    engine = audited.engine
    [held] = engine.submit(grow("vm1", "8M", approval=True)).job_ids
    [free] = engine.submit(grow("vm1", "2M")).job_ids
    audited.work()
    assert engine.states([held, free]) == ["waiting", "succeeded"]
    operator = Actor("somebody", Role.OPERATOR)
    with pytest.raises(NotAllowed):
        engine.database.transact(lambda c: approve(c, held, operator, None))
    with pytest.raises(WrongState):
        engine.database.transact(lambda c: approve(c, free, ADMIN, None))
    for _ in range(2):
        engine.database.transact(lambda c: approve(c, held, ADMIN, "it may"))
    engine.database.transact(queue_due)
    audited.work()
    assert engine.states([held]) == ["succeeded"]
    with engine.database.read() as connection:
        told = connection.execute(
            text("SELECT actor, reason FROM events WHERE kind = 'job.approved'")
        ).all()
    assert [tuple(row) for row in told] == [("tests", "it may")]


def test_an_approved_job_still_waits_for_its_start_time(audited: Audited) -> None:
    request = grow("vm1", "8M", approval=True, run_at="2099-01-01T00:00:00Z")
    [held] = audited.engine.submit(request).job_ids
    audited.engine.database.transact(lambda c: approve(c, held, ADMIN, None))
    audited.engine.database.transact(queue_due)
    audited.work()
    assert audited.engine.job(held)["waiting_on"]["kind"] == "start_time"


def test_what_nobody_approves_can_be_canceled_and_tried_again(audited: Audited) -> None:
    engine = audited.engine
    [held] = engine.submit(grow("vm1", "8M", approval=True)).job_ids
    engine.database.transact(lambda c: cancel(c, held, "tests"))
    assert engine.states([held]) == ["canceled"]
    with engine.database.read() as connection:
        request, _ = retry_request(connection, held)
    assert request.needs_approval


def test_jobs_that_depend_on_an_approval_wait_with_it(audited: Audited) -> None:
    engine = audited.engine
    accepted = engine.submit(
        grow("vm1", "8M", approval=True, ref="first"),
        create("after", depends_on=["first"]),
    )
    audited.work()
    assert engine.states(accepted.job_ids) == ["waiting", "waiting"]
    engine.database.transact(lambda c: approve(c, accepted.job_ids[0], ADMIN, None))
    engine.database.transact(queue_due)
    audited.work()
    assert engine.states(accepted.job_ids) == ["succeeded", "succeeded"]


# -- findings that are not true any more --------------------------------------------------


def test_a_repair_means_what_was_seen_and_nothing_later(audited: Audited) -> None:
    engine = audited.engine
    lose(audited, "vm1")
    audited.audit("ram")
    [found] = audited.findings()
    with engine.database.read() as connection:
        stale = repair_submission(connection, found["id"], "forget", ADMIN)
    # Somebody sees to it, and makes another of that name.
    audited.do(act("volume.forget", "vm1"))
    audited.do(create("vm1"))
    with engine.database.read() as connection, pytest.raises(WrongState, match="audit backend"):
        repair_submission(connection, found["id"], "forget", ADMIN)
    with pytest.raises(VolumeReplaced):
        audited.submit(stale)
    assert engine.volumes()["vm1"]["state"] == "available"


def test_what_came_back_is_not_forgotten(audited: Audited) -> None:
    lose(audited, "vm1")
    audited.audit("ram")
    [found] = audited.findings()
    id_ = audited.engine.volumes()["vm1"]["id"]
    audited.storage_sql("INSERT INTO volumes (id, name, size) VALUES (?, 'vm1', 1048576)", id_)
    job = audited.repair(found["id"], "forget")
    assert (job["state"], job["error"]["code"]) == ("failed", "conflict")
    assert audited.audit("ram")["findings"] == {}


def test_a_lock_that_was_taken_since_is_not_broken(audited: Audited, scheduler: Schedules) -> None:
    engine = audited.engine
    lock_of_the_dead(audited)
    audited.audit("ram")
    [found] = audited.findings()
    with engine.database.read() as connection:
        stale = repair_submission(connection, found["id"], "break", ADMIN)
    with engine.database.write() as connection:
        release(connection, "ram", "vm1", None, ADMIN, force=True, reason="it is dead")
        take(connection, "ram", "vm1", "other", ADMIN, seconds=None, reason=None)
    scheduler(rules={"lock": "break"})._repair_by_rule()
    assert audited.findings()[0]["repair_job"] is None
    job_id = audited.submit(stale)
    audited.work()
    assert engine.job(job_id)["error"]["code"] == "conflict"
    assert engine.volumes()["vm1"]["lock"]["owner"] == "other"


def test_where_not_all_is_written_no_rule_acts(
    audited: Audited, scheduler: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(audited, "vm1", "vm2")
    monkeypatch.setattr("workers.execution.auditing.job.MOST_FINDINGS", 1)
    [job_id] = audited.engine.submit({"action": "backend.audit", "backend": "ram"}).job_ids
    audited.work()
    assert audited.engine.job(job_id)["result"]["not_written"] == 1
    scheduler(rules={"ghost": "forget"})._repair_by_rule()
    assert [one["repair_job"] for one in audited.findings()] == [None]


def refusals(engine: Engine, kind: str) -> list[tuple[str | None, Any]]:
    with engine.database.read() as connection:
        rows = connection.execute(
            select(events.c.volume, events.c.data).where(events.c.kind == kind)
        ).all()
        return [(row.volume, row.data) for row in rows]


def test_a_rule_that_may_not_repair_is_recorded_once_and_in_the_finding(
    audited: Audited, scheduler: Schedules
) -> None:
    engine = audited.engine
    lose(audited, "vm1")
    with engine.database.write() as connection:
        take(connection, "ram", "vm1", "backup", ADMIN, seconds=None, reason=None)
    for one in (scheduler(rules={"ghost": "forget"}), scheduler(rules={"ghost": "forget"})):
        audited.audit("ram")
        one._repair_by_rule()
        one._repair_by_rule()
        [found] = audited.findings()
        assert found["repair_job"] is None
        assert "backup" in found["detail"]["repair_refused"]
    [(volume, data)] = refusals(engine, "repair.refused")
    assert (volume, data["finding"]) == ("vm1", found["id"])
    assert data["why"] == found["detail"]["repair_refused"]
    with engine.database.write() as connection:
        release(connection, "ram", "vm1", "backup", ADMIN, force=False, reason=None)
    audited.audit("ram")
    one._repair_by_rule()
    [found] = audited.findings()
    assert found["repair_job"] is not None
    assert "repair_refused" not in found["detail"]
