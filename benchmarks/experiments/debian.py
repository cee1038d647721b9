"""A create on the PostgreSQL that Debian installs, and on the one that tests bring along."""

from __future__ import annotations

from benchmarks.figures import Results, percentile, ratios
from benchmarks.rounds import interleaved
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``debian_create``; raises `LeftOut` where that server is not installed."""
    with (
        stand.debian() as server,
        stand.product() as ours,
        stand.product(server=server) as debians,
    ):
        taken = interleaved(
            {
                "Debian's PostgreSQL 15": lambda: debians.latencies(sizes.creates),
                "the one brought along": lambda: ours.latencies(sizes.creates),
            },
            sizes.rounds,
        )
    found = {name: [percentile(one, 0.5) for one in rounds] for name, rounds in taken.items()}
    results.figure("debian_create", ratios(*found.values()))
    for name, values in found.items():
        results.read("debian", name, "ms", [value * 1e3 for value in values])
