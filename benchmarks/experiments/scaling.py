"""What more workers do for the product, and what each of them costs while it has nothing to do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import median

import psycopg
import redis

from benchmarks.figures import Results
from benchmarks.product import Product
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand

#: Worker processes of each product.
_WORKERS = (1, 2, 4)
#: Seconds between two looks at what the sessions of a database wait for.
_LOOK_SECONDS = 0.02

_COMMITS = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
_SESSIONS = """
SELECT count(*) AS sessions,
       count(*) FILTER (WHERE state <> 'idle') AS busy,
       count(*) FILTER (WHERE wait_event_type = 'Lock') AS locked
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Read how batches, connections, commits and messages change with the number of workers."""
    at_rest: dict[int, dict[str, float]] = {}
    for workers in _WORKERS:
        with stand.product(workers=workers) as product, _looking(product) as database:
            at_rest[workers] = _at_rest(product, database, sizes.rest)
            _batches(product, database, workers, sizes, results)
    few, many = min(_WORKERS), max(_WORKERS)
    for what, unit in _UNITS.items():
        each = (at_rest[many][what] - at_rest[few][what]) / (many - few)
        results.read("scaling", f"{what} of a worker at rest", unit, [each])
        others = at_rest[few][what] - few * each
        results.read("scaling", f"{what} of API and scheduler at rest", unit, [others])


_UNITS = {"commits": "/s", "connections": "", "broker commands": "/s"}


def _at_rest(
    product: Product, database: psycopg.Connection[tuple[int, ...]], seconds: float
) -> dict[str, float]:
    """What the product does while it has nothing to do."""
    broker = product.broker()
    before = _count(database, _COMMITS), _commands(broker)
    begun = time.monotonic()
    connections: list[int] = []
    while time.monotonic() < begun + seconds:
        connections.append(_count(database, _SESSIONS))
        time.sleep(1.0)
    passed = time.monotonic() - begun
    # Those of this look are among them.
    commits = _count(database, _COMMITS) - before[0] - len(connections) - 1
    return {
        "commits": commits / passed,
        "connections": median(connections),
        "broker commands": (_commands(broker) - before[1] - 1) / passed,
    }


def _batches(
    product: Product,
    database: psycopg.Connection[tuple[int, ...]],
    workers: int,
    sizes: Sizes,
    results: Results,
) -> None:
    """Jobs a second, commits for each job, and sessions that wait for a lock of another."""
    rates: list[float] = []
    before = _count(database, _COMMITS)
    for _ in range(sizes.rounds):
        rates.append(sizes.batch / product.batch_seconds(sizes.batch))
    commits = _count(database, _COMMITS) - before
    busy, locked = _waits(product, database, sizes)
    told = f"{workers} workers" if workers > 1 else "1 worker"
    results.read("scaling", f"batch, {told}", "jobs/s", rates)
    results.read(
        "scaling",
        f"commits of 1,000 jobs, {told}",
        "",
        [1e3 * commits / sizes.batch / sizes.rounds],
    )
    results.read("scaling", f"sessions at work, {told}", "", [busy])
    results.read("scaling", f"sessions that wait for a lock, {told}", "", [locked])


def _waits(
    product: Product, database: psycopg.Connection[tuple[int, ...]], sizes: Sizes
) -> tuple[float, float]:
    """Sessions that are at work during a batch, and those that wait for a lock, on average."""
    client = product.client()
    accepted = client.accept("/v1/batches", product.batch(sizes.batch))
    path = f"/v1/batches/{json.loads(accepted)['id']}"
    looks: list[tuple[int, ...]] = []
    while client.get(path)["finished_at"] is None:
        found = database.execute(_SESSIONS).fetchone()
        if found is not None:
            looks.append(found)
        time.sleep(_LOOK_SECONDS)
    client.close()
    product.settle()
    count = max(1, len(looks))
    return sum(one[1] for one in looks) / count, sum(one[2] for one in looks) / count


@contextmanager
def _looking(product: Product) -> Iterator[psycopg.Connection[tuple[int, ...]]]:
    """A session that looks at the others of the product's database."""
    url = product.database_url.replace("postgresql+psycopg", "postgresql")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def _count(database: psycopg.Connection[tuple[int, ...]], query: str) -> int:
    found = database.execute(query).fetchone()
    return 0 if found is None else found[0]


def _commands(broker: redis.Redis) -> int:
    found: Mapping[str, int] = broker.info("stats")
    return found["total_commands_processed"]
