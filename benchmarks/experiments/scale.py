"""Much at once: many jobs on one volume, many volumes, and memory over many jobs."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.figures import Results
from benchmarks.product import Product
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand

#: What the large sizes are compared with is this many times smaller.
_SMALLER = 10


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``lane_ratio``, ``volumes_ratio`` and ``memory_ratio``."""
    with stand.product() as product:
        _memory(product, sizes, results)
        _growing(
            results, "volumes_ratio", sizes.volumes, "volumes in a batch", product.batch_seconds
        )
        _growing(results, "lane_ratio", sizes.lane, "jobs on one volume", product.lane_seconds)


def _memory(product: Product, sizes: Sizes, results: Results) -> None:
    for _ in range(sizes.batches_before_memory):  # until what is kept once is there
        product.batch_seconds(sizes.batch)
    before = product.memory_mib()
    for _ in range(sizes.batches_for_memory):
        product.batch_seconds(sizes.batch)
    after = product.memory_mib()
    results.figure("memory_ratio", [max(after[name] / before[name] for name in before)])
    for name in before:
        results.read("scale", f"memory of {name}, before", "MiB", [before[name]])
        results.read("scale", f"memory of {name}, after", "MiB", [after[name]])


def _growing(
    results: Results, key: str, count: int, what: str, seconds_for: Callable[[int], float]
) -> None:
    """Measure how the time of a job changes with the number of jobs."""
    few = count // _SMALLER
    small = few / seconds_for(few)
    large = count / seconds_for(count)
    results.figure(key, [small / large])
    results.read("scale", f"{few:,} {what}", "jobs/s", [small])
    results.read("scale", f"{count:,} {what}", "jobs/s", [large])
