"""One job at a time on an idle system, and one Celery task at a time."""

from __future__ import annotations

from benchmarks.figures import Results, percentile, ratios
from benchmarks.rounds import interleaved
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``single_p50`` and ``single_p99``."""
    with stand.celery() as celery, stand.product() as product, stand.product("sqlite") as light:
        taken = interleaved(
            {
                "PostgreSQL": lambda: product.latencies(sizes.singles),
                "Celery": lambda: celery.latencies(sizes.singles),
                "SQLite": lambda: light.latencies(sizes.singles),
            },
            sizes.rounds,
        )
    for key, share in (("single_p50", 0.50), ("single_p99", 0.99)):
        found = {
            name: [percentile(values, share) for values in rounds] for name, rounds in taken.items()
        }
        results.figure(key, ratios(found["PostgreSQL"], found["Celery"]))
        for name, values in found.items():
            what = f"{name}, {share:.0%} within"
            results.read("single", what, "ms", [value * 1e3 for value in values])
