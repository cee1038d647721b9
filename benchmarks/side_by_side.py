"""Two products side by side, one of which has something to bear: how much worse that makes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median

from benchmarks.figures import Results, percentile, ratios
from benchmarks.product import Product
from benchmarks.rounds import interleaved
from benchmarks.sizes import Sizes


@dataclass(frozen=True)
class Compared:
    """Something that both are measured by."""

    name: str
    unit: str
    more_is_better: bool
    measured: Callable[[Product, Sizes], float]


def _batch_rate(product: Product, sizes: Sizes) -> float:
    return sizes.batch / product.batch_seconds(sizes.batch)


def _latency(product: Product, sizes: Sizes) -> float:
    return percentile(product.latencies(sizes.singles // 2), 0.50) * 1e3


BATCH = Compared("batch", "jobs/s", True, _batch_rate)
SINGLE = Compared("single job, median", "ms", False, _latency)


def times_worse(
    results: Results, section: str, what: Compared, sides: Mapping[str, Product], sizes: Sizes
) -> float:
    """How many times worse the second side is than the first; the median of the rounds."""
    found = interleaved(
        {name: partial(what.measured, product, sizes) for name, product in sides.items()},
        sizes.fine_rounds,
    )
    for name, values in found.items():
        results.read(section, f"{what.name}, {name}", what.unit, values)
    light, heavy = found.values()
    worse = ratios(light, heavy) if what.more_is_better else ratios(heavy, light)
    results.read(section, f"{what.name}, compared", "times worse", worse)
    return median(worse)
