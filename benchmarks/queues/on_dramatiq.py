"""dramatiq: messages in Redis, two worker processes with eight threads each, its default."""

from __future__ import annotations

import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.queues import place

broker = RedisBroker(url=place.url())
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="empty")
def empty() -> None:
    """Do nothing."""


def install() -> None:
    """There is nothing to make."""


def workers(one_at_a_time: bool) -> list[list[str]]:
    """The command that starts its worker processes."""
    return [["dramatiq", __name__, "--processes", "2"]]


def seconds_for(count: int) -> float:
    """Seconds from submitting so many messages in a loop to the end of the last."""
    begun = time.perf_counter()
    for _ in range(count):
        empty.send()
    broker.join("empty", interval=10)
    return time.perf_counter() - begun
