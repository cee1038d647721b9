"""The product on the PostgreSQL that Debian installs, and on the one that tests bring along."""

from __future__ import annotations

from functools import partial

from benchmarks.figures import Results, percentile, ratios
from benchmarks.product import Product
from benchmarks.rounds import interleaved
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``debian_create`` and ``debian_ratio``.

    Raises `LeftOut` where that server is not installed.
    """

    def create(product: Product) -> float:
        return percentile(product.latencies(sizes.creates), 0.5) * 1e3

    def batch(product: Product) -> float:
        return sizes.batch / product.batch_seconds(sizes.batch)

    with (
        stand.debian() as server,
        stand.product() as ours,
        stand.product(server=server) as debians,
    ):
        for key, what, unit, measured in (
            ("debian_create", "one create", "ms", create),
            ("debian_ratio", "batch", "jobs/s", batch),
        ):
            found = interleaved(
                {
                    "Debian's PostgreSQL 15": partial(measured, debians),
                    "the one brought along": partial(measured, ours),
                },
                sizes.rounds,
            )
            results.figure(key, ratios(*found.values()))
            for name, values in found.items():
                results.read("debian", f"{what}, {name}", unit, values)
