"""procrastinate: jobs in PostgreSQL, two workers, submitted with its own bulk call."""

from __future__ import annotations

import time

import procrastinate
import psycopg

from benchmarks.queues import place

#: Jobs a worker runs at once; its default of 1 is slower.
CONCURRENCY = 10

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=place.url()))

_UNFINISHED = "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status IN ('todo', 'doing'))"


@app.task(queue="empty")
async def empty() -> None:
    """Do nothing."""


def install() -> None:
    """Make its tables."""
    with app.open():
        app.schema_manager.apply_schema()


def workers() -> list[list[str]]:
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
