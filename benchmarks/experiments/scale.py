"""Much at once: many jobs on one volume, many volumes, and memory over many jobs."""

from __future__ import annotations

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
        _volumes(product, sizes, results)
        _lane(product, sizes, results)


def _memory(product: Product, sizes: Sizes, results: Results) -> None:
    for _ in range(2):  # until what is kept once is there
        product.batch_seconds(sizes.batch)
    before = product.memory_mib()
    for _ in range(sizes.batches_for_memory):
        product.batch_seconds(sizes.batch)
    after = product.memory_mib()
    results.figure("memory_ratio", [max(after[name] / before[name] for name in before)])
    for name in before:
        results.read("scale", f"memory of {name}, before", "MiB", [before[name]])
        results.read("scale", f"memory of {name}, after", "MiB", [after[name]])


def _volumes(product: Product, sizes: Sizes, results: Results) -> None:
    few = sizes.volumes // _SMALLER
    small = few / product.batch_seconds(few)
    large = sizes.volumes / product.batch_seconds(sizes.volumes)
    results.figure("volumes_ratio", [small / large])
    results.read("scale", f"{few:,} volumes in a batch", "jobs/s", [small])
    results.read("scale", f"{sizes.volumes:,} volumes in a batch", "jobs/s", [large])


def _lane(product: Product, sizes: Sizes, results: Results) -> None:
    few = sizes.lane // _SMALLER
    small = few / product.lane_seconds(few)
    large = sizes.lane / product.lane_seconds(sizes.lane)
    results.figure("lane_ratio", [small / large])
    results.read("scale", f"{few:,} jobs on one volume", "jobs/s", [small])
    results.read("scale", f"{sizes.lane:,} jobs on one volume", "jobs/s", [large])
