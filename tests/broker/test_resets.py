"""Redis is emptied, restarted or drops connections: what was in it, and who listens afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from orchestrator.embedded.broker import EmbeddedBroker
from orchestrator.jobs.queued import unnamed
from tests.broker.conftest import MakePlain, Parts, until

#: Something happens to the broker; what is passed is to be done before it is well again.
Mishap = Callable[[Callable[[], None]], None]


@pytest.fixture(
    params=["emptied", pytest.param("restarted", marks=pytest.mark.slow), "connections dropped"]
)
def mishap(request: pytest.FixtureRequest, broker: EmbeddedBroker, server: redis.Redis) -> Mishap:
    """Each thing that may happen to the broker."""

    def happen(meanwhile: Callable[[], None]) -> None:
        if request.param == "emptied":
            server.flushall()
            meanwhile()
        elif request.param == "restarted":
            broker.stop()
            meanwhile()
            broker.start()
        else:
            server.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            meanwhile()

    return happen


@pytest.mark.slow
def test_plain_tasks_that_wait_are_gone_when_redis_is_emptied(
    make_plain: MakePlain, server: redis.Redis
) -> None:
    plain = make_plain()
    plain.send("quick", "before")
    server.flushall()
    plain.send("quick", "after")
    plain.worker()
    plain.until_done("after")
    assert plain.journal() == ["after done"]


@pytest.mark.slow
def test_a_plain_worker_reads_no_more_after_an_acknowledgement_that_failed(
    make_plain: MakePlain, broker: EmbeddedBroker
) -> None:
    # Settings that are often recommended: late acknowledgement, one message at a time.
    plain = make_plain(
        task_acks_late=True, worker_prefetch_multiplier=1, worker_enable_remote_control=False
    )
    first = plain.worker()
    plain.send("long", "copy")
    plain.until_started("copy")
    broker.stop()
    plain.let_go()
    first.until_it_says("Couldn't ack")
    broker.start()
    plain.send("quick", "next")
    second = plain.worker()
    plain.until_done("next")
    assert first.running
    assert second.log.count(" received") == 1
    assert first.log.count(" received") == 1


def test_jobs_that_wait_are_done_although_redis_was_emptied(
    parts: Parts, server: redis.Redis
) -> None:
    waiting = [job for n in range(5) for job in parts.create(f"vm-{n}")]
    until(lambda: server.exists("backend.ram"), "wake-ups are sent")
    server.flushall()
    parts.worker(worker__claim_seconds=0.5)
    parts.until_states(waiting, "succeeded")
    assert set(parts.starts(waiting).values()) == {1}


def test_a_worker_hears_messages_again_whatever_happened_to_redis_while_it_worked(
    parts: Parts, mishap: Mishap
) -> None:
    # It does not look by itself: what is done after it was told by message.
    worker = parts.worker(worker__threads=1)
    parts.scheduler(scheduler__relay_seconds=0.5)
    for n in range(2):
        parts.faults.set(operation="create", kind="hang", times=1)
        [long] = parts.create(f"long-{n}")
        parts.until_states([long], "running")

        def end_it(long: int = long) -> None:
            parts.faults.clear()
            parts.until_states([long], "succeeded")

        mishap(end_it)
        [after] = parts.create(f"after-{n}")
        parts.until_states([after], "succeeded")
        assert parts.starts([long, after]) == {long: 1, after: 1}
    assert worker.running


def test_a_worker_goes_on_by_itself_while_redis_is_away(
    parts: Parts, broker: EmbeddedBroker
) -> None:
    worker = parts.worker(worker__claim_seconds=0.5)
    [before] = parts.create("before")
    parts.until_states([before], "succeeded")
    broker.stop()
    during = [job for n in range(3) for job in parts.create(f"during-{n}")]
    parts.until_states(during, "succeeded")
    assert worker.running
    assert set(parts.starts([before, *during]).values()) == {1}


def test_a_worker_started_while_redis_is_away_works_and_hears_messages_once_it_is_there(
    parts: Parts, broker: EmbeddedBroker, server: redis.Redis
) -> None:
    broker.stop()
    worker = parts.worker(worker__claim_seconds=0.5)
    [during] = parts.create("during")
    parts.until_states([during], "succeeded")
    broker.start()
    parts.scheduler()
    until(lambda: server.client_list(), "the broker is back")
    until(lambda: _took_a_message(parts, server), "it takes messages")
    assert worker.running


def _took_a_message(parts: Parts, server: redis.Redis) -> bool:
    """Send a wake-up, and see whether it is taken."""
    parts.wakeups.send(unnamed(["backend.ram"]))
    until(lambda: server.info("commandstats").get("cmdstat_lpush"), "a message was sent")
    return not server.exists("backend.ram")
