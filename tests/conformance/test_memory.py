"""What only the `memory` driver does: failing and dawdling as told, for every process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator

import pytest

from orchestrator.domain.errors import (
    BackendBusy,
    BackendError,
    BackendUnavailable,
    Conflict,
    NoSpace,
    TimedOut,
)
from tests.conformance.calls import Claim, LeaseLost, new_volume, stopped
from workers.backends.base.facts import Absent, VolumeFacts
from workers.backends.base.references import VolumeRef
from workers.backends.memory.driver import MemoryDriver
from workers.backends.memory.spec import MemoryOptions
from workers.backends.memory.store import Faults, erase, place

MIB = 2**20


@pytest.fixture
def installation() -> Iterator[str]:
    name = f"test-{uuid.uuid4().hex}"
    yield name
    erase("m", name)


@pytest.fixture
def driver(installation: str) -> MemoryDriver:
    return MemoryDriver("m", MemoryOptions(), installation)


@pytest.fixture
def faults(installation: str) -> Faults:
    return Faults("m", installation)


def test_state_is_shared_and_private_to_user_and_installation(
    driver: MemoryDriver, installation: str
) -> None:
    volume = new_volume()
    driver.create(volume, MIB, {}, Claim())
    assert isinstance(MemoryDriver("m", MemoryOptions(), installation).inspect(volume), VolumeFacts)
    assert place("m", installation).parent.stat().st_mode & 0o777 == 0o700
    other = MemoryDriver("m", MemoryOptions(), f"{installation}-other")
    assert other.inspect(volume) == Absent()
    erase("m", f"{installation}-other")


def create_many(installation: str, prefix: str) -> None:
    driver = MemoryDriver("m", MemoryOptions(), installation)
    for number in range(200):
        driver.create(new_volume(f"{prefix}-{number}"), MIB, {}, Claim())


def test_processes_and_threads_create_at_once(driver: MemoryDriver, installation: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=create_many, args=(installation, f"p{n}")) for n in range(2)]
    threads = [threading.Thread(target=create_many, args=(installation, f"t{n}")) for n in range(4)]
    for worker in workers:
        worker.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len({facts.name for facts in driver.list_volumes()}) == 6 * 200


def test_faults_hit_what_they_name_as_often_as_told(driver: MemoryDriver, faults: Faults) -> None:
    faults.set(kind="fail", operation="create", name_pattern="bad*", times=2, code="backend_busy")
    faults.set(kind="unavailable", operation="inspect")
    driver.create(new_volume("good"), MIB, {}, Claim())
    for _ in range(2):
        with pytest.raises(BackendBusy):
            driver.create(new_volume("bad1"), MIB, {}, Claim())
    driver.create(new_volume("bad1"), MIB, {}, Claim())
    with pytest.raises(BackendUnavailable):
        driver.inspect(new_volume("good"))
    faults.clear()
    assert driver.inspect(new_volume("good")) == Absent()


def test_a_lost_reply_and_a_failure_after_the_effect_leave_the_effect(
    driver: MemoryDriver, faults: Faults
) -> None:
    one, two = new_volume("one"), new_volume("two")
    faults.set(kind="lost reply", operation="create", times=1)
    with pytest.raises(TimedOut):
        driver.create(one, MIB, {}, Claim())
    faults.set(kind="fail", operation="create", when="after", times=1)
    with pytest.raises(BackendError):
        driver.create(two, MIB, {}, Claim())
    assert isinstance(driver.inspect(one), VolumeFacts)
    assert isinstance(driver.inspect(two), VolumeFacts)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_kills_the_process_on_the_side_of_the_effect_it_was_set_for(
    driver: MemoryDriver, faults: Faults, installation: str, when: str
) -> None:
    faults.set(kind="crash", name_pattern="p-5", when="before" if when == "before" else "after")
    worker = multiprocessing.get_context("spawn").Process(
        target=create_many, args=(installation, "p")
    )
    worker.start()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL
    assert len(list(driver.list_volumes())) == (5 if when == "before" else 6)


def test_a_hang_ends_when_the_faults_are_cleared(driver: MemoryDriver, faults: Faults) -> None:
    faults.set(kind="hang", operation="create")
    volume = new_volume()
    thread = threading.Thread(target=driver.create, args=(volume, MIB, {}, Claim()))
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    assert driver.inspect(volume) == Absent()
    faults.clear()
    thread.join()
    assert isinstance(driver.inspect(volume), VolumeFacts)


def test_slow_calls_take_as_long_as_told(driver: MemoryDriver, faults: Faults) -> None:
    faults.set(kind="slow", operation="create", seconds=0.2, times=1)
    started = time.monotonic()
    driver.create(new_volume("a"), MIB, {}, Claim())
    assert time.monotonic() - started >= 0.2


def test_a_delay_looks_whether_it_must_stop(installation: str) -> None:
    driver = MemoryDriver("m", MemoryOptions(delay=3600), installation)
    with pytest.raises(LeaseLost):
        driver.create(new_volume(), MIB, {}, stopped(2))
    assert list(driver.list_volumes()) == []


def test_unknown_faults_are_refused(faults: Faults) -> None:
    with pytest.raises(ValueError, match="no such fault"):
        faults.set(kind="explode")  # type: ignore[arg-type]


def test_there_is_only_as_much_room_as_configured(installation: str) -> None:
    driver = MemoryDriver("m", MemoryOptions(capacity=MIB), installation)
    volume = new_volume()
    driver.create(volume, 4 * MIB, {}, Claim())
    driver.write(volume.id, b"x" * MIB)
    assert driver.capacity().free_bytes == 0
    with pytest.raises(NoSpace):
        driver.write(volume.id, b"x", MIB)
    with pytest.raises(NoSpace):
        driver.clone(new_volume("c"), volume, 4 * MIB, {}, Claim())


def test_a_late_create_does_not_bring_a_removed_volume_back(driver: MemoryDriver) -> None:
    late, volume = Claim(), new_volume()
    driver.create(volume, MIB, {}, Claim())
    driver.remove(volume, Claim())
    with pytest.raises(Conflict):
        driver.create(volume, MIB, {}, late)
    assert list(driver.list_volumes()) == []


def test_a_fork_does_not_share_its_parents_connection(driver: MemoryDriver) -> None:
    driver.create(new_volume("parent"), MIB, {}, Claim())
    child = os.fork()
    if child == 0:
        driver.create(VolumeRef("0" * 32, "child"), MIB, {}, Claim())
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert {facts.name for facts in driver.list_volumes()} == {"parent", "child"}


def test_a_directory_that_somebody_else_can_enter_is_not_trusted(
    driver: MemoryDriver, installation: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr("workers.backends.memory.store.SHARED_MEMORY", tmp_path)
    place("m", installation).parent.mkdir(mode=0o755)
    with pytest.raises(BackendUnavailable, match="this user's alone"):
        MemoryDriver("m", MemoryOptions(), installation).read_identity()
