"""Queues that nobody reads, and a Redis that is full or makes room by throwing things away."""

from __future__ import annotations

from collections.abc import Iterator

import kombu.exceptions
import pytest
import redis

from orchestrator.jobs.queued import unnamed
from tests.broker.conftest import NEVER, MakePlain, Parts, calls, until

#: Far fewer than the jobs that wait, and more than a few processes ever leave in one list.
_FEW = 100


@pytest.fixture
def full(server: redis.Redis) -> Iterator[None]:
    """From here on the broker refuses what needs room."""
    server.config_set("maxmemory", 1)
    yield
    server.config_set("maxmemory", 0)


# -- queues without workers -------------------------------------------------------------------


@pytest.mark.slow
def test_plain_tasks_for_a_queue_without_workers_pile_up_in_redis(
    make_plain: MakePlain, server: redis.Redis
) -> None:
    plain = make_plain()
    for n in range(1000):
        plain.send("quick", f"{n}", queue="elsewhere")
    assert server.llen("elsewhere") == 1000


@pytest.mark.slow
def test_jobs_without_a_worker_say_so_leave_few_messages_and_run_when_one_comes(
    parts: Parts, server: redis.Redis
) -> None:
    parts.worker()
    waiting = [
        job
        for batch in range(40)
        for job in parts.create(*(f"vm-{batch}-{n}" for n in range(25)), backend="elsewhere")
    ]
    assert {job["waiting_on"]["kind"] for job in parts.jobs(waiting)} == {"no_worker"}
    until(lambda: server.exists("backend.elsewhere"), "wake-ups are sent")
    parts.scheduler(scheduler__relay_seconds=0.1, scheduler__tick_seconds=0.1)
    tried = _tries(server)
    until(lambda: _tries(server) > tried + 10, "the scheduler would send many more")
    assert server.llen("backend.elsewhere") < _FEW
    parts.worker(host="there")
    parts.until_states(waiting, "succeeded")
    assert set(parts.starts(waiting).values()) == {1}
    until(lambda: not server.exists("backend.elsewhere"), "no message is left")


def _tries(server: redis.Redis) -> int:
    """How often something was sent, or was about to be and there was enough."""
    return calls(server, "lpush") + calls(server, "llen")


def test_a_wake_up_that_finds_no_room_makes_the_last_one_stand_for_all_jobs(
    parts: Parts, server: redis.Redis
) -> None:
    """No worker looks by itself: jobs that no message names are found by one for all of them."""
    waiting: list[int] = []
    while not calls(server, "lset"):
        waiting += parts.create(f"vm-{len(waiting)}")
    parts.worker()
    parts.until_states(waiting, "succeeded")
    until(lambda: not server.exists("backend.ram"), "no message is left")


# -- no room: refused ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("full")
def test_a_plain_task_is_refused_by_a_redis_that_is_full(make_plain: MakePlain) -> None:
    plain = make_plain()
    with pytest.raises((redis.OutOfMemoryError, kombu.exceptions.OperationalError)):
        plain.send("quick", "refused")


@pytest.mark.slow
def test_jobs_are_accepted_and_done_while_redis_is_full_and_messages_flow_once_it_is_not(
    parts: Parts, server: redis.Redis
) -> None:
    old = parts.worker(worker__claim_seconds=0.5)
    done = parts.create("before")
    parts.until_states(done, "succeeded")
    server.config_set("maxmemory", 1)
    done += [job for n in range(5) for job in parts.create(f"during-{n}")]
    parts.until_states(done, "succeeded")
    assert old.stop() == 0
    # One that starts when nothing can be written has to do without as well. It also finds
    # messages, which it cannot mark as taken.
    server.config_set("maxmemory", 0)
    done += parts.create("between")
    until(lambda: server.exists("backend.ram"), "a wake-up waits")
    server.config_set("maxmemory", 1)
    new = parts.worker(worker__claim_seconds=0.5)
    done += parts.create("later")
    parts.until_states(done, "succeeded")
    assert new.running
    server.config_set("maxmemory", 0)
    parts.scheduler(scheduler__relay_seconds=0.5)
    sent = calls(server, "lpush")

    def flows() -> bool:
        parts.wakeups.send(unnamed(["backend.ram"]))
        return calls(server, "lpush") > sent and not server.exists("backend.ram")

    until(flows, "messages are sent and read")
    assert new.running
    assert set(parts.starts(done).values()) == {1}


# -- no room: thrown away -------------------------------------------------------------------------


def _fill(server: redis.Redis, queue: str) -> None:
    """Use the broker for other things, too, until it has thrown the queue away."""
    used: int = server.info("memory")["used_memory"]
    server.config_set("maxmemory-policy", "allkeys-lru")
    server.config_set("maxmemory", used + 500_000)
    numbers = iter(range(100_000))

    def thrown_away() -> bool:
        server.set(f"other-{next(numbers)}", "x" * 10_000)
        return not server.exists(queue)

    until(thrown_away, f"{queue} was thrown away")


@pytest.mark.slow
def test_plain_tasks_are_thrown_away_without_a_word_by_a_redis_that_makes_room(
    make_plain: MakePlain, server: redis.Redis
) -> None:
    plain = make_plain()
    for n in range(10):
        plain.send("quick", f"{n}")
    _fill(server, "celery")
    server.config_set("maxmemory", 0)
    plain.send("quick", "last")
    plain.worker()
    plain.until_done("last")
    assert plain.journal() == ["last done"]


def test_jobs_are_done_although_redis_threw_their_messages_away(
    parts: Parts, server: redis.Redis
) -> None:
    waiting = [job for n in range(10) for job in parts.create(f"vm-{n}")]
    until(lambda: server.exists("backend.ram"), "wake-ups are sent")
    _fill(server, "backend.ram")
    parts.worker(worker__claim_seconds=NEVER)
    parts.scheduler(scheduler__relay_seconds=0.5)
    parts.until_states(waiting, "succeeded")
    assert server.info("stats")["evicted_keys"] > 0
    assert set(parts.starts(waiting).values()) == {1}
