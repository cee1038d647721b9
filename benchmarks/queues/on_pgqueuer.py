"""PgQueuer: jobs in PostgreSQL, two workers, submitted with its own bulk call."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.core.completion import CompletionWatcher
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.queues import place

#: Jobs a worker takes at once; its default of 10 is slower. It is 1 for one job at a time, since a
#: worker records what has ended once that makes a batch, or every tenth of a second.
BATCH = 100


async def work(batch: int) -> None:
    """A worker, as its command line runs it."""
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(place.url())))

    @queuer.entrypoint("empty")
    async def empty(job: Job) -> None:
        """Do nothing."""

    await queuer.run(batch_size=batch)


def install() -> None:
    """Make its tables, all of them durable."""

    async def make() -> None:
        connection = await asyncpg.connect(place.url())
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    asyncio.run(make())


def workers(one_at_a_time: bool) -> list[list[str]]:
    """The commands that start its workers."""
    return [[__name__, str(1 if one_at_a_time else BATCH)]] * 2


def seconds_for(count: int) -> float:
    """Seconds from submitting so many jobs to the end of the last."""

    async def measure() -> float:
        connection = await asyncpg.connect(place.url())
        queries = Queries(AsyncpgDriver(connection))
        begun = time.perf_counter()
        await queries.enqueue(["empty"] * count, [None] * count, [0] * count)
        # A job leaves this table when it has ended.
        while await connection.fetchval("SELECT EXISTS (SELECT FROM pgqueuer)"):
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - begun
        await connection.close()
        return seconds

    return asyncio.run(measure())


def latencies(count: int) -> list[float]:
    """Seconds from enqueuing a job to knowing its end, of jobs one after the other.

    Its watcher is notified of changes and then asks; by default it waits for more of them (50 ms).
    """

    async def measure() -> list[float]:
        connection = await asyncpg.connect(place.url())
        watching = await asyncpg.connect(place.url())
        queries, driver = Queries(AsyncpgDriver(connection)), AsyncpgDriver(watching)
        async with CompletionWatcher(
            driver, queries=Queries(driver), debounce=timedelta(0)
        ) as watcher:

            async def one() -> float:
                begun = time.perf_counter()
                [job] = await queries.enqueue("empty", None)
                if (status := await watcher.wait_for(job)) != "successful":
                    raise RuntimeError(f"job {job} ended as {status}")
                return time.perf_counter() - begun

            await one()
            taken = [await one() for _ in range(count)]
        await connection.close()
        await watching.close()
        return taken

    return uvloop.run(measure())


if __name__ == "__main__":
    uvloop.run(work(int(sys.argv[1])))
