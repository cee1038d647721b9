"""Nobody waits for all that another has submitted, nor for what hangs or takes long."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from pydantic import ValidationError
from sqlalchemy import select

from orchestrator.domain.actors import Actor
from orchestrator.domain.states import Role
from orchestrator.jobs.claim import MOST_CLAIMED, Claim, claim
from orchestrator.jobs.turns import QUANTUM, Turns, in_batch
from orchestrator.settings import BackendSettings, Settings
from orchestrator.store.database import Database
from orchestrator.store.tables import jobs
from tests.engine.conftest import Engine, act, create
from workers.backends.memory.store import Faults
from workers.slots import Slots

ANN, BEN = Actor("ann", Role.ADMIN), Actor("ben", Role.ADMIN)
SEVERAL = 3 * MOST_CLAIMED


def _fences(engine: Engine, job_ids: list[int]) -> list[int]:
    """In which order jobs were claimed."""
    with engine.database.read() as connection:
        found = dict(connection.execute(select(jobs.c.id, jobs.c.fence)).all())
    return [found[job_id] for job_id in job_ids]


def _claim(engine: Engine, **options: bool | int) -> list[Claim]:
    return claim(
        engine.database,
        worker="w",
        queue="backend.ram",
        backends=list(engine.worker.serving.drivers),
        lease_seconds=30.0,
        **options,  # type: ignore[arg-type]
    )


def test_a_single_job_does_not_wait_for_the_end_of_a_batch(engine: Engine) -> None:
    batch = engine.submit(*(create(f"many{n}") for n in range(SEVERAL)), actor=ANN).job_ids
    single = engine.submit(create("one"), actor=BEN).job_ids
    engine.work()
    [own] = _fences(engine, single)
    before = [fence for fence in _fences(engine, batch) if fence < own]
    assert len(before) == QUANTUM


def test_two_batches_take_turns(engine: Engine) -> None:
    first = engine.submit(*(create(f"a{n}") for n in range(SEVERAL)), actor=ANN).job_ids
    second = engine.submit(*(create(f"b{n}") for n in range(SEVERAL)), actor=ANN).job_ids
    engine.work()
    ahead = max(_fences(engine, second)[:QUANTUM])
    assert sum(fence < ahead for fence in _fences(engine, first)) == QUANTUM


def test_one_submitter_of_many_single_jobs_does_not_hold_up_another() -> None:
    turns = Turns()
    given = [turns.single("q", "ann", head=7) for _ in range(3 * QUANTUM)]
    assert given == [7] * QUANTUM + [8] * QUANTUM + [9] * QUANTUM
    assert turns.single("q", "ben", head=7) == 7
    assert turns.single("q", "ann", head=30) == 30
    assert in_batch(QUANTUM, head=4) == 5


@pytest.mark.parametrize("batch", [False, True], ids=["single jobs", "batches"])
def test_two_submitters_take_turns_on_a_backend_that_runs_one_job_at_a_time(
    settings: Settings, batch: bool
) -> None:
    settings.backends["ram"].max_jobs = 1
    engine, turns = Engine(settings, Database(settings.database_url)), Turns()

    def asked(who: Actor, count: int) -> list[int]:
        wanted = [create(f"{who.name}{n}") for n in range(count)]
        if batch:
            return engine.submit(*wanted, actor=who).job_ids
        return [
            job_id
            for request in wanted
            for job_id in engine.submit(request, actor=who, turns=turns).job_ids
        ]

    try:
        many, few = asked(ANN, 8), asked(BEN, 3)
        engine.work()
        order = sorted(zip(_fences(engine, many + few), "a" * 8 + "b" * 3, strict=True))
        assert "".join(who for _, who in order) == "abababaaaaa"
    finally:
        engine.close()


def test_priority_comes_before_turns(engine: Engine) -> None:
    later = engine.submit(create("later"), actor=ANN).job_ids
    first = engine.submit(*(create(f"p{n}", priority=-5) for n in range(QUANTUM * 2))).job_ids
    engine.work()
    assert max(_fences(engine, first)) < _fences(engine, later)[0]


def test_the_last_free_place_takes_no_slow_job(engine: Engine) -> None:
    engine.submit(create("golden"))
    engine.work()
    clone = act("volume.clone", "copy", params={"source": "golden"})
    [slow] = engine.submit(clone).job_ids
    [quick] = engine.submit(create("quick")).job_ids
    assert [one.job_id for one in _claim(engine, slow=False)] == [quick]
    assert [one.job_id for one in _claim(engine)] == [slow]
    slots = Slots(2)
    with slots.one() as first, slots.one() as second, slots.one() as third:
        assert first is not None and first.may_be_slow
        assert second is not None and not second.may_be_slow
        assert third is None
    with Slots(1).one() as only:
        assert only is not None and only.may_be_slow


def test_a_backend_runs_no_more_jobs_at_once_than_it_may(engine: Engine) -> None:
    ids = engine.submit(*(create(f"v{n}") for n in range(5))).job_ids
    held = _claim(engine, at_once=2)
    assert [one.job_id for one in held] == ids[:2]
    assert _claim(engine, at_once=2) == []
    assert len(_claim(engine, at_once=3)) == 1


def test_a_limit_is_told_as_what_a_job_waits_for(settings: Settings) -> None:
    settings.backends["ram"].max_jobs = 1
    engine = Engine(settings, Database(settings.database_url))
    try:
        [_, second] = engine.submit(create("a"), create("b")).job_ids
        assert len(_claim(engine, at_once=engine.worker.serving.max_jobs("backend.ram") or 0)) == 1
        waiting = engine.job(second)["waiting_on"]
        assert waiting["kind"] == "limit" and "max_jobs" in waiting["detail"]
    finally:
        engine.close()


def test_a_backend_that_hangs_holds_up_no_other(engine: Engine) -> None:
    """Its jobs take its own places in the worker; those of other backends stay free."""
    driver = next(
        driver for driver in engine.worker.serving.drivers.values() if driver.backend == "ram"
    )
    with ExitStack() as stack:
        faults = Faults(driver.backend, driver.installation)
        stack.callback(faults.clear)
        faults.set(operation="create", kind="hang", times=None)
        engine.submit(*(create(f"hung{n}") for n in range(3)))
        hung = threading.Thread(target=engine.worker.runner.drain, args=("backend.ram",))
        hung.start()
        stack.callback(hung.join)
        stack.callback(faults.clear)
        done = engine.submit(create("other", backend="fast")).job_ids
        engine.worker.runner.drain("backend.fast")
        assert engine.states(done) == ["succeeded"]


def test_an_attempt_may_take_as_long_as_its_backend_says(settings: Settings) -> None:
    settings.backends["ram"].time_limits["volume.create"] = 0.01
    engine = Engine(settings, Database(settings.database_url))
    try:
        [driver] = [one for one in engine.worker.serving.drivers.values() if one.backend == "ram"]
        faults = Faults(driver.backend, driver.installation)
        faults.set(operation="create", kind="slow", seconds=3600.0)
        [job_id] = engine.submit(create("a", max_attempts=1)).job_ids
        engine.work()
        assert engine.job(job_id)["error"]["code"] == "timed_out"
    finally:
        engine.close()


def test_a_time_limit_is_for_an_action_that_there_is() -> None:
    with pytest.raises(ValidationError, match="there is no action"):
        BackendSettings(driver="memory", time_limits={"volume.creat": 5})
