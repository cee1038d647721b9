"""A long batch from the request to the last job's end, and as many Celery tasks."""

from __future__ import annotations

from benchmarks.figures import Results, ratios
from benchmarks.rounds import interleaved
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand

CELERY = "Celery, delay in a loop, then get"


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``batch_ratio``, ``batch_ratio_sqlite`` and ``accept_rate``."""
    count = sizes.batch
    with (
        stand.celery() as celery,
        stand.product() as product,
        stand.product(synchronous_commit=False) as lax,
        stand.product("sqlite") as light,
    ):
        taken = interleaved(
            {
                "PostgreSQL": lambda: product.batch_seconds(count),
                CELERY: lambda: celery.seconds_for(count),
                "SQLite": lambda: light.batch_seconds(count),
                "PostgreSQL, synchronous_commit off": lambda: lax.batch_seconds(count),
                "PostgreSQL, until accepted": lambda: product.accept_seconds(count),
                "SQLite, until accepted": lambda: light.accept_seconds(count),
            },
            sizes.rounds,
        )
    rates = {name: [count / seconds for seconds in rounds] for name, rounds in taken.items()}
    results.figure("batch_ratio", ratios(rates["PostgreSQL"], rates[CELERY]))
    results.figure("batch_ratio_sqlite", ratios(rates["SQLite"], rates[CELERY]))
    results.figure("accept_rate", rates["PostgreSQL, until accepted"])
    for name, values in rates.items():
        results.read("batch", name, "jobs/s", values)
