"""PgQueuer: jobs in PostgreSQL, two workers, submitted with its own bulk call."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from benchmarks.queues import place

#: Jobs a worker takes at once; its default of 10 is slower.
BATCH = 100


async def work() -> None:
    """A worker, as its command line runs it."""
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(place.url())))

    @queuer.entrypoint("empty")
    async def empty(job: Job) -> None:
        """Do nothing."""

    await queuer.run(batch_size=BATCH)


def install() -> None:
    """Make its tables, all of them durable."""

    async def make() -> None:
        connection = await asyncpg.connect(place.url())
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    asyncio.run(make())


def workers() -> list[list[str]]:
    """The commands that start its workers."""
    return [[__name__]] * 2


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


if __name__ == "__main__":
    uvloop.run(work())
