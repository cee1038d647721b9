"""Messages that come twice, are held back, come in the wrong order, or to a worker that leaves."""

from __future__ import annotations

import random

import pytest
import redis

from orchestrator.embedded.broker import EmbeddedBroker, redis_client_url
from tests.broker.conftest import MakePlain, Parts, calls, until

#: A visibility timeout that a test can wait for, looked at as often.
_SHORT = {"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}


# -- twice ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_plain_task_longer_than_the_visibility_timeout_is_begun_again_while_it_runs(
    make_plain: MakePlain,
) -> None:
    plain = make_plain(task_acks_late=True, broker_transport_options=_SHORT)
    plain.worker()
    plain.worker()
    plain.send("long", "copy")
    plain.until_started("copy", times=2)
    assert "copy done" not in plain.journal()


def test_a_wake_up_delivered_twice_runs_the_job_once(
    parts: Parts, server: redis.Redis, make_plain: MakePlain
) -> None:
    # The shortest visibility timeout of all who share a broker is everyone's.
    make_plain(task_acks_late=True, broker_transport_options=_SHORT).worker()
    parts.faults.set(operation="create", kind="hang", times=1)
    [long] = parts.create("long")
    [wakeup] = until(lambda: server.lrange("backend.ram", 0, -1), "a wake-up is sent")
    first = parts.worker(worker__threads=1)
    parts.until_states([long], "running")
    second = parts.worker(worker__threads=1, worker__claim_seconds=0.5)
    for _ in range(3):
        # What redelivery does: the same message once more.
        server.rpush("backend.ram", wakeup)
        until(lambda: not server.exists("backend.ram"), "it was taken")
    [after] = parts.create("after")
    parts.until_states([after], "succeeded")
    assert parts.job(long)["state"] == "running"
    parts.faults.clear()
    parts.until_states([long], "succeeded")
    assert first.running and second.running
    assert parts.starts([long, after]) == {long: 1, after: 1}
    assert [(job["attempt"], job["attempts"]) for job in parts.jobs([long, after])] == [(1, [])] * 2
    assert [volume.name for volume in parts.stored()] == ["after", "long"]


# -- held back ------------------------------------------------------------------------------


@pytest.mark.slow
def test_plain_tasks_are_held_behind_a_long_one_while_another_worker_idles(
    make_plain: MakePlain, server: redis.Redis
) -> None:
    plain = make_plain()
    plain.worker()
    plain.send("long", "long")
    for n in range(4):
        plain.send("quick", f"behind-{n}")
    plain.until_started("long")
    until(lambda: not server.exists("celery"), "the first has fetched them all")
    plain.worker()
    plain.send("quick", "idle")
    plain.until_done("idle")
    assert plain.journal() == ["long started", "idle done"]
    plain.let_go()
    plain.until_done(*(f"behind-{n}" for n in range(4)))


@pytest.mark.slow
def test_jobs_claimed_together_with_a_long_one_are_done_by_others_while_it_runs(
    parts: Parts,
) -> None:
    parts.faults.set(operation="create", name_pattern="long", kind="hang", times=1)
    parts.worker(worker__threads=1)
    [long, *quick] = parts.create("long", *(f"behind-{n}" for n in range(4)))
    parts.until_states([long, *quick], "running")
    parts.worker(worker__threads=1)
    parts.until_states(quick, "succeeded")
    assert parts.job(long)["state"] == "running"
    parts.faults.clear()
    parts.until_states([long], "succeeded")
    assert {job["attempt"] for job in parts.jobs([long, *quick])} == {1}


def test_jobs_that_come_after_a_long_one_are_done_by_others_while_it_runs(parts: Parts) -> None:
    parts.faults.set(operation="create", name_pattern="long", kind="hang", times=1)
    parts.worker(worker__threads=1)
    [long] = parts.create("long")
    parts.until_states([long], "running")
    parts.worker(worker__threads=1, worker__claim_seconds=0.5)
    quick = [job for n in range(4) for job in parts.create(f"after-{n}")]
    parts.until_states(quick, "succeeded")
    assert parts.job(long)["state"] == "running"


def test_a_wake_up_that_a_full_worker_reads_reaches_one_that_idles(parts: Parts) -> None:
    parts.faults.set(operation="create", name_pattern="long", kind="hang", times=1)
    parts.worker(worker__threads=1)
    [long] = parts.create("long")
    parts.until_states([long], "running")
    # It does not look by itself, and no scheduler sends again what was read in vain.
    parts.worker(worker__threads=1)
    for n in range(4):
        [quick] = parts.create(f"after-{n}")
        parts.until_states([quick], "succeeded")
    assert parts.job(long)["state"] == "running"


# -- in order -------------------------------------------------------------------------------


@pytest.mark.slow
def test_plain_priorities_that_share_a_list_are_not_kept(make_plain: MakePlain) -> None:
    plain = make_plain()
    for priority in (2, 1, 0):
        plain.send("quick", f"priority-{priority}", priority=priority)
    plain.worker("--prefetch-multiplier", "1")
    plain.until_done("priority-0", "priority-1", "priority-2")
    assert plain.journal() == ["priority-2 done", "priority-1 done", "priority-0 done"]


def test_jobs_are_claimed_and_done_in_the_order_of_priority_then_submission(parts: Parts) -> None:
    # More of them than are claimed at once.
    priorities = [*range(-20, 20)] * 6
    random.Random(6).shuffle(priorities)
    submitted = [
        (priority, job)
        for n, priority in enumerate(priorities)
        for job in parts.create(f"vm-{n}", priority=priority)
    ]
    parts.worker(worker__threads=1)
    in_order = [job for _, job in sorted(submitted)]
    parts.until_states(in_order, "succeeded")
    fences = parts.fences(in_order)
    assert fences == sorted(fences)
    names = {job["id"]: job["volume"] for job in parts.jobs(in_order)}
    assert [volume.name for volume in parts.stored()] == [names[job] for job in in_order]


# -- to one that leaves -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_plain_task_that_outlives_the_patience_of_a_shutdown_is_lost(
    make_plain: MakePlain, server: redis.Redis
) -> None:
    plain = make_plain()
    leaving = plain.worker()
    plain.send("long", "copy")
    plain.until_started("copy")
    leaving.ask_to_stop()
    leaving.until_it_says("Warm shutdown")
    # What a service manager does when its patience is over.
    leaving.kill()
    plain.worker()
    plain.send("quick", "after")
    plain.until_done("after")
    assert plain.journal() == ["copy started", "after done"]
    until(lambda: not server.exists("celery", "unacked"), "nothing is kept to do it again from")


def test_a_long_job_is_handed_back_at_shutdown_and_done_once_by_another(parts: Parts) -> None:
    parts.faults.set(operation="create", kind="slow", seconds=3600.0, times=1)
    leaving = parts.worker(worker__threads=1)
    [job] = parts.create("long")
    parts.until_states([job], "running")
    assert leaving.stop() == 0
    handed_back = parts.job(job)
    assert (handed_back["state"], handed_back["attempt"]) == ("queued", 0)
    assert parts.stored() == []
    # Its wake-up went with the worker or came back: whoever starts is told by the scheduler.
    parts.scheduler(scheduler__relay_seconds=0.5)
    parts.worker(worker__threads=1)
    parts.until_states([job], "succeeded")
    assert parts.job(job)["attempt"] == 1
    assert [volume.name for volume in parts.stored()] == ["long"]


@pytest.mark.slow
def test_a_job_without_a_safe_point_is_left_after_its_time_and_finished_by_another(
    parts: Parts,
) -> None:
    parts.faults.set(operation="create", kind="hang", times=1)
    lease = {"worker__lease_seconds": 3, "worker__heartbeat_seconds": 1}
    leaving = parts.worker(worker__threads=1, worker__shutdown_seconds=0, **lease)
    [job] = parts.create("hung")
    parts.until_states([job], "running")
    assert leaving.stop() != 0
    parts.scheduler(scheduler__relay_seconds=0.5)
    parts.worker(worker__threads=1, **lease)
    parts.until_states([job], "succeeded")
    assert parts.starts([job]) == {job: 2}
    assert [volume.name for volume in parts.stored()] == ["hung"]


# -- to one that has long been idle -------------------------------------------------------------


@pytest.mark.slow
def test_a_blocking_read_longer_than_the_socket_timeout_fails(broker: EmbeddedBroker) -> None:
    url = redis_client_url(broker.url)
    with (
        redis.Redis.from_url(url, socket_timeout=0.5) as client,
        pytest.raises(redis.TimeoutError),
    ):
        client.brpop(["nothing"], timeout=3)


@pytest.mark.slow
def test_a_worker_idle_for_longer_than_the_socket_timeout_still_hears_messages(
    parts: Parts, server: redis.Redis
) -> None:
    worker = parts.worker()
    # Each read waits for a second: these are twelve.
    until(lambda: calls(server, "brpop") > 12, "twelve reads in vain")
    [job] = parts.create("late")
    parts.until_states([job], "succeeded")
    assert worker.running
