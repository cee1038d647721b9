"""Connections that break, workers that die, jobs that take their time: at every request."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from orchestrator.domain.errors import (
    BackendUnavailable,
    Problem,
    StillWorking,
    TimedOut,
)
from tests.conformance.calls import Claim
from tests.ontap.conftest import driver_at, driver_on, leftovers
from tests.ontap.double import Double, Fault, Request
from tests.ontap.filer import Filer
from tests.ontap.processes import Child, Forks
from tests.ontap.scenes import SCENES, Scene
from workers.backends.base.facts import Absent

pytestmark = pytest.mark.slow

#: More requests than any call takes.
MANY = 60
ALL = pytest.mark.parametrize("name", sorted(SCENES))


def begun(double: Double, name: str) -> Scene:
    """A scene on a filer that has nothing else."""
    double.filer = Filer()
    scene = SCENES[name]()
    scene.prepare(double, driver_on(double))
    double.forget()
    return scene


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "then"),
    [
        *((name, "repeat") for name in sorted(SCENES)),
        *((name, "discard") for name in sorted(SCENES) if SCENES[name].makes),
    ],
)
def test_a_connection_that_breaks_leaves_one_object_or_none(
    double: Double, name: str, when: str, then: str
) -> None:
    for number in range(1, MANY):
        scene, claim = begun(double, name), Claim()
        double.faults = [Fault(f"drop {when}", number=number)]
        try:
            scene.call(driver_on(double), claim)
        except Problem as problem:
            expected = TimedOut if double.requests[-1].method != "GET" else BackendUnavailable
            assert isinstance(problem, expected), problem
        else:
            unnoticed = len(double.requests) >= number
            double.forget()
            scene.check(double, driver_on(double))
            if unnoticed:
                assert scene.dispensable, "a broken connection went unnoticed"
                continue
            return
        double.faults.clear()
        scene.meanwhile(double)
        if then == "discard":
            scene.discard(driver_on(double), claim.again())
            scene.check_discarded(double, driver_on(double))
        else:
            scene.again(driver_on(double), claim.again())
            scene.check(double, driver_on(double))
    raise AssertionError("more requests than expected")


@pytest.mark.parametrize("name", ["Create", "Clone", "Snapshot", "Rollback", "BuildPolicy"])
def test_a_worker_that_dies_at_any_request_leaves_one_object(
    double: Double, forks: Forks, name: str
) -> None:
    for number in range(1, MANY):
        scene, claim = begun(double, name), Claim()
        worker = forks.child(_call, double.port, scene, claim)

        def kill(_request: Request, worker: Child = worker) -> None:
            os.kill(worker.pid, signal.SIGKILL)

        double.faults = [Fault("call after", number=number, hook=kill)]
        status = worker.go()
        assert status in (0, -signal.SIGKILL)
        double.forget()
        if status == 0:
            scene.check(double, driver_on(double))
            return
        scene.meanwhile(double)
        scene.again(driver_on(double), claim.again())
        scene.check(double, driver_on(double))
    raise AssertionError("more requests than expected")


def _call(port: int, scene: Scene, claim: Claim) -> Iterator[None]:
    yield
    scene.call(driver_at(port), claim)


@ALL
def test_work_that_takes_its_time_is_left_to_the_filer_and_gone_on_with(
    double: Double, name: str
) -> None:
    scene, claim = begun(double, name), Claim()
    turns = 0
    double.filer.jobs.held = True
    while True:
        try:
            scene.call(driver_on(double, patience=0), claim)
        except StillWorking:
            turns += 1
            assert turns < MANY, "it never ends"
            with pytest.raises(StillWorking):
                # The filer is no further, so the call is not either, and nothing is begun twice.
                scene.call(driver_on(double, patience=0), claim.again())
            double.filer.jobs.held = False
            double.filer.jobs.advance()
            double.filer.jobs.held = True
            claim = claim.again()
        else:
            break
    double.filer.jobs.held = False
    double.filer.jobs.advance()
    scene.check(double, driver_on(double))
    assert turns > 0 or "Policy" in name or name == "SetRules"


@ALL
def test_a_job_of_the_filer_that_fails_is_an_error_and_what_is_repeated_succeeds(
    double: Double, name: str
) -> None:
    for number in range(1, MANY):
        scene, claim = begun(double, name), Claim()
        jobs = double.filer.jobs
        jobs.count, jobs.failing = 0, {number: (460770, "Job failed.")}
        try:
            scene.call(driver_on(double), claim)
        except Problem as problem:
            assert problem.facts["ontap_code"] == "460770"
        else:
            if number in scene.dispensable:
                continue
            assert jobs.count < number
            jobs.failing.clear()
            scene.check(double, driver_on(double))
            return
        scene.meanwhile(double)
        scene.again(driver_on(double), claim.again())
        scene.check(double, driver_on(double))
    raise AssertionError("more jobs than expected")


def test_what_broke_off_is_hidden(double: Double) -> None:
    scene = begun(double, "Clone")
    double.faults = [Fault("drop after", method="PATCH")]
    with pytest.raises(TimedOut):
        scene.call(driver_on(double), Claim())
    assert len(leftovers(double)) >= 1
    driver = driver_on(double)
    assert [one.name for one in driver.list_volumes()] == ["source"]
    assert len(driver.list_snapshots(scene.arguments[1])) == 1
    assert driver.inspect(scene.arguments[0]) == Absent()
