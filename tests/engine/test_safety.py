"""Safety: what must hold when locks, cancels, deaths and races come at the worst moment."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import func, select, text, update

from orchestrator.actions.requests import parse_request
from orchestrator.domain.errors import InUse, Locked, WrongState
from orchestrator.domain.states import Ending
from orchestrator.jobs import upkeep
from orchestrator.jobs.claim import Claim, Step, write_step
from orchestrator.jobs.finish import Outcome, finish
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.submit import submit
from orchestrator.logs import configure_logs
from orchestrator.resources.volume import locks
from orchestrator.settings import LogSettings, Settings
from orchestrator.store.database import Database
from orchestrator.store.tables import job_dependencies, jobs
from tests.engine.conftest import ADMIN, Engine, act, create, grow
from tests.engine.test_execution import _claim, _driver, _faults
from workers.backends.base.references import VolumeRef
from workers.backends.file.driver import FileDriver
from workers.backends.file.spec import FileOptions

pytestmark = pytest.mark.either_database

POSTGRESQL = pytest.mark.parametrize("database_kind", ["postgresql"], indirect=True)
LATER = "2999-01-01T00:00:00Z"


def _lock(engine: Engine, volume: str, owner: str) -> None:
    with engine.database.write() as connection:
        locks.take(connection, "ram", volume, owner, ADMIN, reason=None, seconds=None)


def _end(engine: Engine, claim: Claim, ending: Ending) -> None:
    engine.database.transact(lambda c: finish(c, [(claim, Outcome(ending=ending))]))


# -- locks --------------------------------------------------------------------------------


def test_a_job_refused_when_claimed_is_refused_again_when_its_worker_died(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    [job_id] = engine.submit(act("volume.remove", "a")).job_ids
    _lock(engine, "a", "alpha")
    [refused] = _claim(engine)
    assert isinstance(refused.refused, Locked)
    engine.time_passes()
    engine.work()
    assert engine.job(job_id)["error"]["code"] == "locked"
    assert "a" in engine.volumes()


def test_a_lock_taken_between_claim_and_first_step_stops_the_removal(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    engine.submit(act("volume.remove", "a"))
    [claimed] = _claim(engine)
    _lock(engine, "a", "alpha")
    with pytest.raises(Locked), engine.database.write() as connection:
        write_step(connection, claimed, Step(1, "remove", "intended", {}))


def test_no_lock_is_given_out_while_a_removal_is_at_work(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    engine.submit(act("volume.remove", "a"))
    [claimed] = _claim(engine)
    with engine.database.write() as connection:
        assert write_step(connection, claimed, Step(1, "remove", "intended", {}))
    with pytest.raises(InUse):
        _lock(engine, "a", "alpha")


# -- cancel -------------------------------------------------------------------------------


def test_canceling_a_removal_that_touched_nothing_leaves_the_volume(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    _faults(engine).set(operation="read_identity", kind="unavailable", times=1)
    [job_id] = engine.submit(act("volume.remove", "a")).job_ids
    engine.work()
    assert engine.job(job_id)["state"] == "waiting"
    engine.cancel(job_id)
    assert engine.job(job_id)["state"] == "canceled"
    engine.work()
    assert engine.volumes()["a"]["state"] == "available"
    assert len(list(_driver(engine).list_volumes())) == 1


def test_canceling_a_removal_that_may_have_happened_finishes_it(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    _faults(engine).set(operation="remove", kind="lost reply", times=1)
    [job_id] = engine.submit(act("volume.remove", "a")).job_ids
    engine.work()
    engine.cancel(job_id)
    engine.work()
    assert engine.job(job_id)["state"] == "succeeded"
    assert engine.volumes() == {}


def test_a_cancel_does_not_wait_out_a_back_off(engine: Engine) -> None:
    _faults(engine).set(operation="create", kind="lost reply", times=1)
    [job_id] = engine.submit(create("a")).job_ids
    claims = _claim(engine, worker="worker-1")
    engine.cancel(job_id)
    engine.worker.runner._work_on(engine.worker.leases.hold(claims, time.monotonic()))
    engine.work()
    assert engine.job(job_id)["state"] == "canceled"
    assert engine.volumes() == {}


# -- the truth after failures ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "request_", "expected"),
    [
        ("remove", act("volume.remove", "a"), {}),
        ("rename", act("volume.rename", "a", params={"new_name": "b"}), {"b": {}}),
        (
            "set_metadata",
            act("volume.update", "a", params={"metadata": {"k": "v"}}),
            {"a": {"k": "v"}},
        ),
    ],
    ids=["remove", "rename", "update"],
)
def test_a_change_that_failed_after_its_effect_is_told_as_it_is(
    engine: Engine, operation: str, request_: dict[str, Any], expected: dict[str, Any]
) -> None:
    engine.submit(create("a"))
    engine.work()
    _faults(engine).set(operation=operation, kind="lost reply", times=1)
    [job_id] = engine.submit({**request_, "max_attempts": 1}).job_ids
    engine.work()
    assert engine.job(job_id)["state"] == "failed"
    assert {name: view["metadata"] for name, view in engine.volumes().items()} == expected


def test_a_rollback_that_fails_loses_no_newer_snapshot_unseen(engine: Engine) -> None:
    engine.submit(
        create("a"),
        act("snapshot.create", "a", snapshot="s1"),
        act("snapshot.create", "a", snapshot="s2"),
    )
    engine.work()
    _faults(engine).set(operation="rollback", kind="fail", times=1)
    engine.submit(act("volume.rollback", "a", snapshot="s1", params={"discard_newer": True}))
    engine.work()
    volume = VolumeRef(engine.volumes()["a"]["id"], "a")
    assert [found.name for found in _driver(engine).list_snapshots(volume)] == ["s1", "s2"]


def test_a_snapshot_in_error_can_only_be_deleted(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    engine.submit(act("snapshot.create", "a", snapshot="s", max_attempts=1))
    for _ in range(4):  # whoever looks what has become of it dies, too
        _claim(engine)
        engine.time_passes()
    for action in ("volume.rollback", "volume.clone"):
        params = {"source": "a"} if action == "volume.clone" else {}
        target = "c" if action == "volume.clone" else "a"
        with pytest.raises(WrongState):
            engine.submit(act(action, target, snapshot="s", params=params))
    [deletion] = engine.submit(act("snapshot.delete", "a", snapshot="s")).job_ids
    engine.work()
    assert engine.states([deletion]) == ["succeeded"]


# -- groups -------------------------------------------------------------------------------


def test_a_job_that_kills_workers_takes_no_others_with_it(engine: Engine) -> None:
    ids = engine.submit(create("a"), create("b"), create("c")).job_ids
    assert [one.job_id for one in _claim(engine)] == ids
    engine.time_passes()
    assert [one.job_id for one in _claim(engine)] == ids[:1]
    assert [one.job_id for one in _claim(engine)] == ids[1:2]


def test_jobs_held_up_in_a_group_are_handed_back_and_outcomes_are_written(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runner._PATIENCE_SECONDS", 0.0)
    faults = _faults(engine)
    faults.set(operation="create", name_pattern="b", kind="hang", seconds=60.0)
    first, slow, third = engine.submit(create("a"), create("b"), create("c")).job_ids
    thread = threading.Thread(target=engine.work)
    thread.start()
    runner = engine.worker.runner

    def becomes(job_id: int, state: str) -> bool:
        # What the clock of a worker process does from time to time.
        runner.hand_back_held_up()
        runner.write_ready()
        return bool(engine.job(job_id)["state"] == state)

    _eventually(lambda: becomes(first, "succeeded"))
    _eventually(lambda: becomes(third, "queued"))
    assert engine.job(slow)["state"] == "running"
    faults.clear()
    thread.join()
    engine.work()
    assert engine.states([first, slow, third]) == ["succeeded"] * 3


def _eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# -- races that only PostgreSQL allows --------------------------------------------------------


@POSTGRESQL
def test_a_destructive_job_never_slips_past_a_predecessor_that_fails_meanwhile(
    engine: Engine,
) -> None:
    engine.submit(create("a"))
    engine.work()
    running, _waiting = engine.submit(grow("a", "2M"), grow("a", "3M")).job_ids
    [claimed] = _claim(engine)
    with engine.database.write() as connection:
        submission = Submission(requests=[parse_request(act("volume.remove", "a"))], actor=ADMIN)
        [removal] = submit(connection, submission, max_attempts=5).job_ids
        ending = threading.Thread(target=_end, args=(engine, claimed, Ending.FAILED))
        ending.start()
        # The ending waits for us: it must see what we are about to commit.
        ending.join(timeout=0.3)
        assert ending.is_alive()
    ending.join()
    engine.work()
    assert engine.states([running, removal]) == ["failed", "canceled"]
    assert "a" in engine.volumes()


@POSTGRESQL
def test_the_end_of_one_and_the_cancel_of_the_next_let_the_third_go(engine: Engine) -> None:
    first, second, third = engine.submit(create("a"), grow("a", "2M"), grow("a", "3M")).job_ids
    [claimed] = _claim(engine)
    with engine.database.write() as connection:
        from orchestrator.jobs.cancel import cancel

        cancel(connection, second, "tests")
        ending = threading.Thread(target=_end, args=(engine, claimed, Ending.SUCCEEDED))
        ending.start()
        ending.join(timeout=0.3)
    ending.join()
    assert engine.states([first, second, third]) == ["succeeded", "canceled", "queued"]


def test_the_safety_net_finds_what_a_start_time_hides(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    engine.submit(grow("a", "8M", run_at=LATER))
    [overlooked] = engine.submit(grow("a", "2M")).job_ids
    with engine.database.write() as connection:
        connection.execute(
            update(jobs).where(jobs.c.id == overlooked).values(state="waiting", queued_at=None)
        )
    engine.database.transact(upkeep.queue_overlooked)
    assert engine.job(overlooked)["state"] == "queued"


# -- submission -------------------------------------------------------------------------------


def test_jobs_with_start_times_may_build_on_one_another(engine: Engine) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    first = engine.submit(create("a", "1M", run_at=soon.isoformat())).job_ids
    second = engine.submit(grow("a", "2M", run_at=(soon + timedelta(hours=1)).isoformat())).job_ids
    for _ in range(2):
        engine.time_passes()
        engine.work()
    assert engine.states([*first, *second]) == ["succeeded", "succeeded"]


def test_a_clone_that_is_queued_can_be_built_on(engine: Engine) -> None:
    engine.submit(create("source"))
    engine.submit(act("volume.clone", "copy", params={"source": "source"}))
    [job_id] = engine.submit(grow("copy", "2M")).job_ids
    engine.work()
    assert engine.states([job_id]) == ["succeeded"]


def test_destructive_jobs_depend_back_to_the_last_of_their_kind_only(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    engine.submit(*[act("volume.wipe", "a") for _ in range(50)])
    with engine.database.read() as connection:
        count = connection.execute(select(func.count()).select_from(job_dependencies)).scalar_one()
    assert count == 49


def test_no_log_line_holds_the_value_of_a_local_variable(
    capfd: pytest.CaptureFixture[str],
) -> None:
    configure_logs(LogSettings(), "tests")
    try:
        secret = "orc_" + "s3cr3t"
        assert secret
        raise ValueError("something")
    except ValueError:
        structlog.get_logger("tests").exception("failed")
    told = capfd.readouterr().err
    assert "ValueError: something" in told
    assert "orc_s3cr3t" not in told


# -- backends that are not there, or not ours ---------------------------------------------------


def test_storage_that_is_mounted_late_is_waited_for(settings: Settings) -> None:
    path = settings.data / "volumes"
    path.rmdir()
    engine = Engine(settings, Database(settings.database_url))
    try:
        [job_id] = engine.submit(create("a", backend="fast")).job_ids
        engine.work()
        assert engine.job(job_id)["waiting_on"]["kind"] == "backend"
        path.mkdir()
        engine.worker.serving.look_at_unusable()
        engine.time_passes()
        engine.work()
        assert engine.states([job_id]) == ["succeeded"]
    finally:
        engine.close()


def test_what_waits_for_a_backend_never_set_up_is_canceled_at_once(settings: Settings) -> None:
    (settings.data / "volumes").rmdir()
    engine = Engine(settings, Database(settings.database_url))
    try:
        [job_id] = engine.submit(create("a", backend="fast", max_attempts=2)).job_ids
        for _ in range(3):
            engine.work()
            engine.time_passes()
        assert engine.states([job_id]) == ["queued"]
        engine.cancel(job_id)
        assert engine.states([job_id]) == ["canceled"]
        assert engine.volumes("fast") == {}
    finally:
        engine.close()


def test_another_installations_storage_is_taken_over_only_when_told(
    settings: Settings, tmp_path: Path
) -> None:
    marker = FileOptions(path=tmp_path / "volumes")
    FileDriver("fast", marker, "0" * 32).write_identity("f" * 32)
    engine = Engine(settings, Database(settings.database_url))
    try:
        [refused] = engine.submit({"action": "backend.verify", "backend": "fast"}).job_ids
        engine.work()
        assert engine.job(refused)["error"]["code"] == "identity_mismatch"
        accept = {
            "action": "backend.verify",
            "backend": "fast",
            "params": {"accept_identity": True},
        }
        [taken] = engine.submit(accept).job_ids
        engine.work()
        # Whoever had it before finds its marker no more.
        assert engine.job(taken)["result"]["identity"] not in ("f" * 32, None)
        [job_id] = engine.submit(create("a", backend="fast")).job_ids
        engine.work()
        assert engine.states([job_id]) == ["succeeded"]
    finally:
        engine.close()


def test_a_copy_of_the_storage_is_used_only_when_told(settings: Settings, tmp_path: Path) -> None:
    engine = Engine(settings, Database(settings.database_url))
    try:
        engine.submit(create("a", backend="fast"))
        engine.work()
        (tmp_path / "volumes").rename(tmp_path / "original")
        subprocess.run(["cp", "-a", tmp_path / "original", tmp_path / "volumes"], check=True)
        verify = {"action": "backend.verify", "backend": "fast"}
        [refused, change] = engine.submit(
            verify, {"action": "volume.remove", "backend": "fast", "volume": "a"}
        ).job_ids
        engine.work()
        for job_id in (refused, change):
            assert engine.job(job_id)["error"]["code"] == "identity_mismatch"
            assert "copy of the storage" in engine.job(job_id)["error"]["detail"]
        [taken] = engine.submit(verify | {"params": {"accept_identity": True}}).job_ids
        engine.work()
        [job_id] = engine.submit(create("b", backend="fast")).job_ids
        engine.work()
        assert engine.states([taken, job_id]) == ["succeeded"] * 2
    finally:
        engine.close()


def test_a_scheduler_that_stands_still_holds_up_no_other(engine: Engine) -> None:
    if not engine.database.is_postgresql:
        pytest.skip("SQLite has one writer")
    soon = datetime(2000, 1, 1, tzinfo=UTC)
    engine.submit(create("a", run_at="2999-01-01T00:00:00Z"))
    engine.submit(create("b", run_at="2999-01-01T00:00:00Z"))
    with engine.database.write() as connection:
        connection.execute(update(jobs).where(jobs.c.volume == "a").values(not_before=soon))
    with engine.database.write() as frozen:
        assert list(upkeep.queue_due(frozen)) == ["backend.ram"]
        with engine.database.write() as connection:
            connection.execute(update(jobs).where(jobs.c.volume == "b").values(not_before=soon))
            connection.execute(text("SET LOCAL lock_timeout = '1s'"))
            assert list(upkeep.queue_due(connection)) == ["backend.ram"]
            assert not upkeep.queue_overlooked(connection)


def test_storage_that_is_gone_is_replaced_by_an_empty_directory(engine: Engine) -> None:
    engine.submit(create("a", backend="fast"))
    engine.work()
    path = engine.settings.data / "volumes"
    path.rename(engine.settings.data / "lost")
    path.mkdir(mode=0o700)
    [waiting] = engine.submit(create("b", backend="fast")).job_ids
    engine.work()
    assert engine.job(waiting)["waiting_on"]["kind"] == "backend"
    accepted = {"action": "backend.verify", "backend": "fast", "params": {"accept_identity": True}}
    [job] = engine.submit(accepted).job_ids
    for _ in range(3):
        engine.work()
        engine.time_passes()
    assert engine.job(job)["state"] == "succeeded", engine.job(job)
    engine.worker.serving.look_at_unusable()
    for _ in range(3):
        engine.work()
        engine.time_passes()
    assert engine.job(waiting)["state"] == "succeeded", engine.job(waiting)
    assert [path for path in path.glob("volumes/*/*.img") if path.name.startswith("b~")]
