"""procrastinate: jobs in PostgreSQL, two workers, submitted with its own bulk call."""

from __future__ import annotations

import asyncio
import time

import procrastinate
import psycopg
import uvloop
from procrastinate.jobs import Status

from benchmarks.queues import place

#: Jobs a worker runs at once; its default of 1 is slower.
CONCURRENCY = 10

#: Seconds between two questions about a job.
POLL = 0.001

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=place.url()))

_UNFINISHED = "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"


@app.task(queue="empty")
async def empty() -> None:
    """Do nothing."""


def install() -> None:
    """Make its tables."""
    with app.open():
        app.schema_manager.apply_schema()


def workers(one_at_a_time: bool) -> list[list[str]]:
    """The commands that start its workers."""
    words = ["procrastinate", "--log-level", "warning", "--app", f"{__name__}.app", "worker"]
    return [[*words, "--concurrency", str(CONCURRENCY)]] * 2


def seconds_for(count: int) -> float:
    """Seconds from submitting so many jobs to the end of the last."""
    with app.open(), psycopg.connect(place.url(), autocommit=True) as connection:
        begun = time.perf_counter()
        empty.batch_defer(*[{}] * count)
        while connection.execute(_UNFINISHED).fetchone() == (True,):
            time.sleep(0.01)
        return time.perf_counter() - begun


def latencies(count: int) -> list[float]:
    """Seconds from deferring a job to knowing its end, of jobs one after the other.

    Workers are notified of new jobs, but nobody is of an end: its status is polled.
    """

    async def one() -> float:
        begun = time.perf_counter()
        job = await empty.defer_async()
        while (status := await app.job_manager.get_job_status_async(job)) != Status.SUCCEEDED:
            if status == Status.FAILED:
                raise RuntimeError(f"job {job} failed")
            await asyncio.sleep(POLL)
        return time.perf_counter() - begun

    async def measure() -> list[float]:
        async with app.open_async():
            await one()
            return [await one() for _ in range(count)]

    return uvloop.run(measure())
