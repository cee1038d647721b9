"""The product on the PostgreSQL that Debian installs, and on the one that tests bring along."""

from __future__ import annotations

from functools import partial

from benchmarks.figures import Results, percentile, ratios
from benchmarks.product import Product
from benchmarks.rounds import interleaved
from benchmarks.side_by_side import BATCH, Compared
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand


def _latency(product: Product, sizes: Sizes) -> float:
    return percentile(product.latencies(sizes.creates), 0.5) * 1e3


_CREATE = Compared("one create", "ms", False, _latency)


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``debian_create`` and ``debian_ratio``.

    Raises `LeftOut` where that server is not installed.
    """
    with (
        stand.debian() as server,
        stand.product() as ours,
        stand.product(server=server) as debians,
    ):
        for key, what in (("debian_create", _CREATE), ("debian_ratio", BATCH)):
            found = interleaved(
                {
                    "Debian's PostgreSQL 15": partial(what.measured, debians, sizes),
                    "the one brought along": partial(what.measured, ours, sizes),
                },
                sizes.rounds,
            )
            results.figure(key, ratios(*found.values()))
            for name, values in found.items():
                results.read("debian", f"{what.name}, {name}", what.unit, values)
