"""Execution: order, retries, cancel, crashes; from the database and the backend."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from orchestrator.actions.requests import parse_request
from orchestrator.domain.errors import (
    BackendError,
    Conflict,
    DependencyFailed,
    JobEnded,
    UnknownJob,
    WrongState,
)
from orchestrator.domain.states import Ending
from orchestrator.inventory.backends import backend_views, configure
from orchestrator.jobs.cancel import cancel_batch, set_priority
from orchestrator.jobs.claim import Claim, Step, claim, renew, write_step
from orchestrator.jobs.finish import Outcome, finish
from orchestrator.jobs.retry import retry_request
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.submit import submit
from orchestrator.store.bulk import draw
from orchestrator.store.tables import events, job_lanes, jobs
from tests.engine.conftest import ADMIN, Engine, act, create, grow
from workers.backends.base.commands import Ran
from workers.backends.base.references import VolumeRef
from workers.backends.memory.store import Faults


def _faults(engine: Engine) -> Faults:
    driver = next(
        driver for driver in engine.worker.serving.drivers.values() if driver.backend == "ram"
    )
    return Faults("ram", driver.installation)


def _driver(engine: Engine, backend: str = "ram") -> Any:
    return next(d for d in engine.worker.serving.drivers.values() if d.backend == backend)


@dataclass(frozen=True)
class _Call:
    """What a driver knows of a worker that has claimed a job."""

    claim: Claim

    @property
    def job_id(self) -> int:
        return self.claim.job_id

    @property
    def token(self) -> str:
        return self.claim.token

    @property
    def fence(self) -> int:
        return self.claim.fence

    @property
    def alone(self) -> bool:
        return True

    def checkpoint(self) -> None:
        """It does not stop."""

    def progress(self, done: int, total: int, unit: str = "bytes") -> None:
        """Nobody listens."""

    def seconds_left(self) -> float:
        return 60.0

    def ran(self, ran: Ran) -> None:
        """There are no commands."""


class _Unable:
    """A driver that cannot grow anything."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __getattr__(self, name: str) -> Any:
        return getattr(self._driver, name)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(self._driver)

    def grow(self, *_: Any) -> None:
        raise BackendError("this cannot be grown")


class _Defective(_Unable):
    """One that cannot even be asked what is there."""

    def fence_off(self, *_: Any) -> None:
        raise RuntimeError("a defect")


def _intend(engine: Engine, one: Claim, name: str) -> bool:
    step = Step(1, name, "intended", {})
    return engine.database.transact(lambda connection: write_step(connection, one, step))


def _claim(engine: Engine, queue: str = "backend.ram", worker: str = "w") -> Any:
    return claim(
        engine.database,
        worker=worker,
        queue=queue,
        backends=list(engine.worker.serving.drivers),
        lease_seconds=30.0,
    )


def test_jobs_of_one_volume_run_one_at_a_time_in_order(engine: Engine) -> None:
    ids = engine.submit(create("a"), grow("a", "2M"), grow("a", "3M"), create("b")).job_ids
    taken = [one.job_id for one in _claim(engine)]
    assert taken == [ids[0], ids[3]]
    assert _claim(engine, worker="other") == []
    assert engine.job(ids[1])["waiting_on"]["job"] == ids[0]
    assert engine.job(ids[2])["waiting_on"]["kind"] == "earlier_job"


def test_the_database_refuses_a_second_begun_job_in_a_lane(engine: Engine) -> None:
    _, second = engine.submit(create("a"), grow("a", "2M")).job_ids
    _claim(engine)
    with pytest.raises(IntegrityError), engine.database.write() as connection:
        connection.execute(update(job_lanes).where(job_lanes.c.job_id == second).values(begun=True))


def test_the_database_refuses_an_outcome_without_the_latest_fence(engine: Engine) -> None:
    [job_id] = engine.submit(create("a")).job_ids
    [one] = _claim(engine)
    with pytest.raises(IntegrityError), engine.database.write() as connection:
        connection.execute(
            update(jobs)
            .where(jobs.c.id == job_id)
            .values(state="succeeded", outcome_fence=one.fence - 1)
        )


def test_a_late_worker_cannot_overwrite_a_newer_attempt(engine: Engine) -> None:
    [job_id] = engine.submit(create("a")).job_ids
    [late] = _claim(engine, worker="late")
    engine.time_passes()
    [newer] = _claim(engine, worker="newer")
    assert newer.fence > late.fence
    done = Outcome(ending=Ending.SUCCEEDED, result={"by": "late"})
    finished = engine.database.transact(lambda c: finish(c, [(late, done)]))
    assert finished.lost == [job_id]
    assert engine.job(job_id)["state"] == "running"
    held = engine.database.transact(lambda c: renew(c, {job_id: late.fence}, 30.0, {}))
    assert not held.held


def test_a_job_whose_worker_died_is_finished_by_another_once(engine: Engine) -> None:
    [job_id] = engine.submit(create("a", "3M")).job_ids
    [dead] = _claim(engine, worker="dead")
    # It did the work and died before it could say so.
    work = VolumeRef(dead.intent.volume_id or "", "a")
    engine.time_passes()
    engine.another_worker().work()
    view = engine.job(job_id)
    assert view["state"] == "succeeded"
    assert view["attempt"] == 2
    assert [entry["outcome"] for entry in view["attempts"]] == ["lost"]
    assert _driver(engine).inspect(work).size_bytes == 3 * 2**20
    assert len(list(_driver(engine).list_volumes())) == 1


def test_work_done_by_a_dead_worker_is_found_not_repeated(engine: Engine) -> None:
    engine.submit(create("a", "1M"), act("snapshot.create", "a", snapshot="s"))
    engine.work()
    for request in (
        grow("a", "2M"),
        act("volume.rollback", "a", snapshot="s"),
        act("snapshot.delete", "a", snapshot="s"),
        act("volume.rename", "a", params={"new_name": "b"}),
        act("volume.remove", "b"),
    ):
        _faults(engine).set(operation="*", kind="lost reply", times=1)
        [job_id] = engine.submit(request).job_ids
        engine.work()
        assert engine.job(job_id)["state"] == "waiting", request["action"]
        assert engine.job(job_id)["error"]["code"] == "timed_out"
        engine.time_passes()
        engine.work()
        assert engine.job(job_id)["state"] == "succeeded", request["action"]
    assert engine.volumes() == {}
    assert list(_driver(engine).list_volumes()) == []


def test_an_error_that_may_pass_is_tried_again_after_a_while(engine: Engine) -> None:
    _faults(engine).set(operation="create", kind="unavailable", times=2)
    [job_id] = engine.submit(create("a")).job_ids
    engine.work()
    view = engine.job(job_id)
    assert (view["state"], view["waiting_on"]["kind"]) == ("waiting", "back_off")
    for _ in range(2):
        engine.time_passes()
        engine.work()
    view = engine.job(job_id)
    assert (view["state"], view["attempt"]) == ("succeeded", 3)
    assert [entry["error"]["code"] for entry in view["attempts"]] == ["backend_unavailable"] * 2


def test_a_begun_job_keeps_its_lane_through_back_off(engine: Engine) -> None:
    _faults(engine).set(operation="create", kind="unavailable", times=1)
    first, second = engine.submit(create("a"), grow("a", "2M")).job_ids
    engine.work()
    assert engine.states([first, second]) == ["waiting", "waiting"]
    assert engine.job(second)["waiting_on"]["job"] == first
    engine.time_passes()
    engine.work()
    assert engine.states([first, second]) == ["succeeded", "succeeded"]


def test_a_failed_create_leaves_nothing(engine: Engine) -> None:
    for backend in ("ram", "fast"):
        job_ids = engine.submit(
            create("a", backend=backend, max_attempts=1),
            grow("a", "2M", backend=backend),
            act("volume.remove", "a", backend=backend),
        ).job_ids
        if backend == "ram":
            _faults(engine).set(operation="create", kind="lost reply", times=1)
            engine.work()
            assert engine.states(job_ids) == ["failed", "failed", "canceled"]
            assert engine.job(job_ids[1])["error"]["code"] == "unknown_volume"
            assert engine.job(job_ids[2])["error"]["code"] == "dependency_failed"
            assert engine.volumes(backend) == {}
            assert list(_driver(engine, backend).list_volumes()) == []
            # The name is free again.
            [again] = engine.submit(create("a", backend=backend)).job_ids
            engine.work()
            assert engine.states([again]) == ["succeeded"]


def test_what_cannot_be_undone_is_marked_and_can_be_removed(engine: Engine) -> None:
    faults = _faults(engine)
    faults.set(operation="create", kind="lost reply", times=1)
    faults.set(operation="discard", kind="fail", times=1)
    [job_id] = engine.submit(create("a", max_attempts=1)).job_ids
    engine.work()
    assert engine.job(job_id)["state"] == "failed"
    assert engine.volumes()["a"]["state"] == "error"
    [removal] = engine.submit(act("volume.remove", "a")).job_ids
    engine.work()
    assert engine.states([removal]) == ["succeeded"]
    assert engine.volumes() == {}


def test_a_failed_grow_leaves_the_volume_and_tells_the_truth(engine: Engine) -> None:
    engine.submit(create("a", "1M"))
    engine.work()
    _faults(engine).set(operation="grow", kind="fail", times=1)
    [job_id] = engine.submit(grow("a", "2M")).job_ids
    engine.work()
    assert engine.job(job_id)["state"] == "failed"
    volume = engine.volumes()["a"]
    assert (volume["state"], volume["size_bytes"]) == ("available", 2**20)


def test_a_destructive_job_runs_in_any_case_if_that_was_asked_for(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    _faults(engine).set(operation="grow", kind="fail", times=2)
    bad, removal = engine.submit(grow("a", "2M"), act("volume.remove", "a", after="end")).job_ids
    engine.work()
    assert engine.states([bad, removal]) == ["failed", "succeeded"]


def test_attempts_come_to_an_end_when_workers_keep_dying(engine: Engine) -> None:
    [job_id] = engine.submit(create("a", max_attempts=2)).job_ids
    for _ in range(2):
        _claim(engine)
        engine.time_passes()
    assert engine.states([job_id]) == ["queued"]  # for somebody who finds out how it ends
    for _ in range(3):
        _claim(engine)
        engine.time_passes()
    view = engine.job(job_id)
    assert (view["state"], view["error"]["code"]) == ("failed", "outcome_unknown")
    assert (view["attempt"], engine.volumes()["a"]["state"]) == (2, "error")
    [removal] = engine.submit(act("volume.remove", "a")).job_ids
    engine.work()
    assert engine.states([removal]) == ["succeeded"]


def test_what_dying_workers_began_to_make_is_taken_away(engine: Engine) -> None:
    [job_id] = engine.submit(create("a", max_attempts=2)).job_ids
    for _ in range(2):
        [one] = _claim(engine)
        _driver(engine).create(VolumeRef(one.intent.volume_id, "a"), 2**20, {}, _Call(one))
        engine.time_passes()
    engine.work()
    view = engine.job(job_id)
    assert (view["state"], view["error"]["code"]) == ("failed", "outcome_unknown")
    assert engine.volumes() == {}
    assert list(_driver(engine).list_volumes()) == []


def test_what_dying_workers_have_changed_is_told(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    [job_id] = engine.submit({**grow("a", "2M"), "max_attempts": 1}).job_ids
    [one] = _claim(engine)
    assert _intend(engine, one, "grow")
    _driver(engine).grow(VolumeRef(one.intent.volume_id, "a"), 2**21, _Call(one))
    engine.time_passes()
    engine.work()
    assert engine.job(job_id)["error"]["code"] == "outcome_unknown"
    assert engine.volumes()["a"]["size_bytes"] == 2**21


def test_a_failed_change_ends_only_when_what_it_left_was_seen(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    _faults(engine).set(operation="remove", kind="lost reply", times=1)
    _faults(engine).set(operation="inspect", kind="unavailable", times=2)
    [job_id] = engine.submit(act("volume.remove", "a", max_attempts=1)).job_ids
    for _ in range(2):
        engine.work()
        view = engine.job(job_id)
        assert (view["state"], view["attempt"]) == ("waiting", 1)
        assert view["waiting_on"]["kind"] == "back_off"
        engine.time_passes()
    engine.work()
    view = engine.job(job_id)
    assert (view["state"], view["error"]["code"]) == ("failed", "timed_out")
    assert [attempt["outcome"] for attempt in view["attempts"]] == ["retried", "retried", "failed"]
    assert engine.volumes() == {}


def test_a_defect_of_a_driver_does_not_keep_a_job_from_ending(engine: Engine) -> None:
    engine.submit(create("a"))
    engine.work()
    defective: Any = _Defective(_driver(engine))
    drivers = engine.worker.serving.drivers
    drivers.update(dict.fromkeys(drivers, defective))
    [job_id] = engine.submit(grow("a", "4M", max_attempts=3)).job_ids
    for _ in range(3):
        assert engine.job(job_id)["state"] in ("queued", "waiting")
        engine.work()
        engine.time_passes()
    view = engine.job(job_id)
    assert (view["state"], view["error"]["code"]) == ("failed", "backend_error")
    assert "could not be seen" in view["error"]["detail"]
    assert engine.volumes()["a"]["state"] == "error"
    # It is for nobody to reset, but to be looked at.
    engine.submit(act("volume.verify", "a"))
    engine.another_worker().work()
    assert (engine.volumes()["a"]["state"], engine.volumes()["a"]["detail"]) == ("available", None)


def test_a_late_call_of_a_failed_job_changes_nothing(engine: Engine) -> None:
    for backend in ("ram", "fast"):
        engine.submit(create("a", backend=backend))
        engine.work()
        [job_id] = engine.submit({**grow("a", "4M"), "backend": backend}).job_ids
        [late] = _claim(engine, f"backend.{backend}")
        assert _intend(engine, late, "grow")
        engine.time_passes()
        other = engine.another_worker(f"other of {backend}")
        unable: Any = _Unable(_driver(engine, backend))
        other.serving.drivers[late.backend_id] = unable
        other.work()
        assert engine.states([job_id]) == ["failed"]
        volume = VolumeRef(engine.volumes(backend)["a"]["id"], "a")
        with pytest.raises(Conflict, match="later claim"):
            _driver(engine, backend).grow(volume, 2**22, _Call(late))
        found = _driver(engine, backend).inspect(volume).size_bytes
        assert found == engine.volumes(backend)["a"]["size_bytes"] == 2**20


def test_shutdown_hands_running_jobs_back_without_using_up_an_attempt(engine: Engine) -> None:
    [job_id] = engine.submit(create("a", max_attempts=1)).job_ids
    claims = _claim(engine)
    engine.worker.leases.stopping.set()
    engine.worker.runner._work_on(engine.worker.leases.hold(claims, time.monotonic()))
    view = engine.job(job_id)
    assert (view["state"], view["attempt"]) == ("queued", 0)
    engine.another_worker().work()
    assert engine.states([job_id]) == ["succeeded"]


# -- cancel ------------------------------------------------------------------------------


def test_a_waiting_job_is_canceled_at_once_and_lets_others_go(engine: Engine) -> None:
    first, second, third = engine.submit(
        create("a"), grow("a", "2M"), grow("a", "3M", depends_on=[])
    ).job_ids
    engine.cancel(second)
    assert engine.job(second)["state"] == "canceled"
    engine.work()
    assert engine.states([first, second, third]) == ["succeeded", "canceled", "succeeded"]
    with pytest.raises(JobEnded):
        engine.cancel(second)
    with pytest.raises(UnknownJob):
        engine.cancel(10**6)


def test_dependents_of_a_canceled_job_are_canceled_and_say_so(engine: Engine) -> None:
    accepted = engine.submit(
        create("a", ref="a"),
        create("b", ref="b", depends_on=["a"]),
        create("c", depends_on=["b"]),
        create("d"),
    )
    a, b, c, d = accepted.job_ids
    engine.cancel(a)
    assert engine.states([a, b, c, d]) == ["canceled", "canceled", "canceled", "queued"]
    assert engine.job(c)["error"] == {
        "code": DependencyFailed.code,
        "detail": f"job {b}, which this one needs, did not succeed",
        "retryable": False,
        "job": b,
    }
    engine.work()
    batch = engine.batch(accepted.batch_id or 0)
    assert (batch["state"], batch["succeeded"], batch["canceled"]) == ("failed", 1, 3)


def test_a_begun_job_in_back_off_is_canceled_and_cleaned_up(engine: Engine) -> None:
    _faults(engine).set(operation="create", kind="lost reply", times=1)
    [job_id] = engine.submit(create("a")).job_ids
    engine.work()
    engine.cancel(job_id)
    assert engine.job(job_id)["state"] == "queued"
    engine.work()
    assert engine.job(job_id)["state"] == "canceled"
    assert engine.volumes() == {}
    assert list(_driver(engine).list_volumes()) == []


def test_a_batch_is_canceled_whole(engine: Engine) -> None:
    accepted = engine.submit(*[create(f"v{n}") for n in range(10)])
    engine.database.transact(lambda c: cancel_batch(c, accepted.batch_id or 0, "tests"))
    batch = engine.batch(accepted.batch_id or 0)
    assert (batch["state"], batch["canceled"]) == ("failed", 10)
    engine.work()
    assert engine.volumes() == {}


def test_a_batch_that_has_ended_is_not_canceled(engine: Engine) -> None:
    accepted = engine.submit(create("a"), create("b"))
    engine.work()
    with pytest.raises(JobEnded, match="has already succeeded"):
        engine.database.transact(lambda c: cancel_batch(c, accepted.batch_id or 0, "tests"))


@pytest.mark.parametrize(
    ("fault", "told"),
    [(None, {"done": 10, "total": 10, "unit": "bytes", "message": None}), ("fail", None)],
)
def test_ended_jobs_have_all_of_their_progress_or_none(
    engine: Engine, fault: Any, told: Any
) -> None:
    [job_id] = engine.submit(create("a", max_attempts=1)).job_ids
    [one] = _claim(engine)
    said = {job_id: {"done": 4, "total": 10, "unit": "bytes"}}
    engine.database.transact(lambda c: renew(c, {job_id: one.fence}, 30.0, said))
    progress = engine.job(job_id)["progress"]
    assert (progress["done"], progress["total"]) == (4, 10)
    ending = Ending.FAILED if fault else Ending.SUCCEEDED
    outcome = Outcome(ending=ending, problem=BackendError("no") if fault else None)
    engine.database.transact(lambda c: finish(c, [(one, outcome)]))
    progress = engine.job(job_id)["progress"]
    assert progress == told or (progress["done"], progress["total"]) == (10, 10)


# -- priorities, times, retry by hand -------------------------------------------------------


def test_priority_decides_between_volumes_and_can_be_changed(engine: Engine) -> None:
    low, high, changed = (
        engine.submit(create(name, backend="fast", priority=priority)).job_ids[0]
        for name, priority in (("low", 5), ("high", -5), ("changed", 10))
    )
    engine.database.transact(lambda c: set_priority(c, changed, -10, "tests"))
    assert [one.job_id for one in _claim(engine, "backend.fast")] == [changed, high, low]


def test_a_start_time_ahead_holds_nobody_up_until_it_has_come(engine: Engine) -> None:
    engine.submit(create("a", "1M"))
    engine.work()
    [later] = engine.submit(grow("a", "8M", run_at="2999-01-01T00:00:00Z")).job_ids
    [now] = engine.submit(grow("a", "2M")).job_ids
    engine.work()
    assert engine.states([later, now]) == ["waiting", "succeeded"]
    assert engine.job(later)["waiting_on"]["kind"] == "start_time"
    engine.time_passes()
    engine.work()
    assert engine.states([later]) == ["succeeded"]
    assert engine.volumes()["a"]["size_bytes"] == 8 * 2**20


def test_retry_makes_a_new_job_bound_to_the_same_volume(engine: Engine) -> None:
    engine.submit(create("a", "1M"))
    engine.work()
    _faults(engine).set(operation="grow", kind="fail", times=1)
    [failed] = engine.submit(grow("a", "2M")).job_ids
    engine.work()

    def retry() -> int:
        def work(connection: Any) -> int:
            request, bound = retry_request(connection, failed)
            submission = Submission(requests=[request], actor=ADMIN, bound={0: bound})
            return submit(connection, submission, max_attempts=5).job_ids[0]

        return engine.database.transact(work)

    again = retry()
    assert again != failed
    engine.work()
    view = engine.job(again)
    assert (view["state"], view["retry_of"]) == ("succeeded", failed)
    engine.submit(act("volume.remove", "a"), create("a", "1M"))
    engine.work()
    with pytest.raises(Exception, match="is not the one that was there"):
        retry()
    with pytest.raises(WrongState):
        engine.database.transact(lambda c: retry_request(c, again))


def test_a_retry_keeps_the_start_time(engine: Engine) -> None:
    engine.submit(create("a", "1M"))
    engine.work()
    at = datetime.now(UTC) + timedelta(days=400)
    [job_id] = engine.submit({**act("volume.remove", "a"), "run_at": at}).job_ids
    engine.cancel(job_id)

    def retry(job_id: int) -> int:
        def work(connection: Any) -> int:
            request, bound = retry_request(connection, job_id)
            submission = Submission(requests=[request], actor=ADMIN, bound={0: bound})
            return submit(connection, submission, max_attempts=5).job_ids[0]

        return engine.database.transact(work)

    again = retry(job_id)
    engine.work()
    assert engine.states([again]) == ["waiting"]
    assert engine.job(again)["run_at"] == at
    engine.cancel(again)
    passed = datetime.now(UTC) - timedelta(days=1)
    engine.database.transact(
        lambda c: c.execute(update(jobs).where(jobs.c.id == again).values(run_at=passed))
    )
    at_once = retry(again)
    engine.work()
    assert engine.states([at_once]) == ["succeeded"]


def test_a_retry_asks_for_all_that_the_job_did(engine: Engine) -> None:
    engine.submit(create("a", "1M"))
    engine.work()
    [needed] = engine.submit({**grow("a", "2M"), "run_at": "2999-01-01T00:00:00Z"}).job_ids
    asked = {
        **act("volume.wipe", "a"),
        "host": "node1",
        "priority": 3,
        "run_at": "2999-01-01T00:00:00Z",
        "depends_on": [needed],
        "approval": True,
        "max_attempts": 7,
        "reason": "because",
        "after": "end",
        "ref": "wipe",
    }
    given = parse_request(asked)
    assert {*given.model_fields_set, "snapshot", "policy"} == set(type(given).model_fields)
    [job_id] = engine.submit(asked).job_ids
    engine.cancel(job_id)
    request, _ = engine.database.transact(lambda c: retry_request(c, job_id))
    assert request.model_dump() == {**given.model_dump(), "ref": None}


def test_a_retry_needs_what_the_retried_job_needed(engine: Engine) -> None:
    engine.submit(create("a", "1M"), create("b", "1M"))
    engine.work()
    _faults(engine).set(operation="grow", kind="fail", times=2)
    first, second = engine.submit(
        {**grow("a", "2M"), "ref": "first"}, {**grow("b", "2M"), "depends_on": ["first"]}
    ).job_ids
    engine.work()
    assert engine.states([first, second]) == ["failed", "canceled"]

    def retry(job_id: int, key: str | None = None) -> int:
        def work(connection: Any) -> int:
            request, bound = retry_request(connection, job_id)
            submission = Submission(
                requests=[request], actor=ADMIN, bound={0: bound}, idempotency_key=key
            )
            return submit(connection, submission, max_attempts=5).job_ids[0]

        return engine.database.transact(work)

    with pytest.raises(DependencyFailed, match=f"retry job {first} first, then job {second}"):
        retry(second)
    again = retry(first)
    engine.work()
    assert engine.states([again]) == ["failed"]
    with pytest.raises(DependencyFailed, match=f"retry job {again} first, then job {second}"):
        retry(second)
    good = retry(again)
    waiting = retry(second, key="once")
    assert engine.job(waiting)["depends_on"] == [good]
    assert engine.job(waiting)["waiting_on"]["job"] == good
    engine.work()
    assert engine.states([good, waiting]) == ["succeeded", "succeeded"]
    assert retry(second, key="once") == waiting


def test_a_job_never_touches_a_later_volume_of_the_same_name(engine: Engine) -> None:
    engine.submit(create("a", "1M"))
    engine.work()
    [removal] = engine.submit(act("volume.remove", "a", run_at="2999-01-01T00:00:00Z")).job_ids
    engine.submit(act("volume.remove", "a"), create("a", "4M"))
    engine.work()
    engine.time_passes()
    engine.work()
    assert engine.job(removal)["error"]["code"] == "volume_replaced"
    assert engine.volumes()["a"]["size_bytes"] == 4 * 2**20


# -- history and numbers --------------------------------------------------------------------


def test_every_change_is_told_in_history_with_before_and_after(engine: Engine) -> None:
    engine.submit(create("a", "1M"), grow("a", "2M", reason="it is full"))
    engine.work()
    with engine.database.read() as connection:
        rows = connection.execute(
            select(events).where(events.c.volume == "a").order_by(events.c.commit_id, events.c.seq)
        ).all()
    assert [row.kind for row in rows] == [
        "job.submitted",
        "job.submitted",
        "job.started",
        "volume.create",
        "job.succeeded",
        "job.started",
        "volume.grow",
        "job.succeeded",
    ]
    grown = rows[6]
    assert grown.data["before"] == {"size_bytes": 2**20}
    assert grown.data["after"]["size_bytes"] == 2 * 2**20
    assert (grown.reason, grown.actor) == ("it is full", "tests")
    assert re.fullmatch("grew volume a", grown.data["text"])


def test_fencing_numbers_only_grow(engine: Engine) -> None:
    engine.submit(*[create(f"v{n}") for n in range(5)])
    fences = [one.fence for one in _claim(engine)]
    assert fences == sorted(set(fences))
    with engine.database.write() as connection:
        assert draw(connection, "fences", 1)[0] > max(fences)


def test_workers_that_start_together_agree_on_what_is_configured(engine: Engine) -> None:
    added = {f"new{number}": engine.settings.backends["ram"] for number in range(20)}
    together = Barrier(4)

    def start() -> None:
        together.wait()
        engine.database.transact(lambda connection: configure(connection, added))

    with ThreadPoolExecutor(4) as pool:
        for started in [pool.submit(start) for _ in range(4)]:
            started.result()
    with engine.database.read() as connection:
        assert {view["name"] for view in backend_views(connection)} == set(added)


def test_what_the_backend_has_not_finished_gives_its_place_to_others(engine: Engine) -> None:
    _faults(engine).set(kind="fail", operation="create", code="still_working", times=3)
    accepted = engine.submit(create("vm1", max_attempts=1))
    for look in range(3):
        engine.work()
        job = engine.job(accepted.job_ids[0])
        assert (job["state"], job["waiting_on"]["kind"]) == ("waiting", "backend"), look
        assert job["attempt"] == 0, "no attempt is used up"
        engine.time_passes()
    engine.work()
    assert engine.job(accepted.job_ids[0])["state"] == "succeeded"
