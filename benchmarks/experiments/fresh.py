"""The first batches on a fresh database of a server as Debian installs it, and the next ones."""

from __future__ import annotations

from statistics import median

from benchmarks.figures import Results
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``fresh_ratio``; raises `LeftOut` where that server is not installed."""
    first = sizes.fresh
    rounds = [_rates(stand, sizes.batch, 2 * first) for _ in range(sizes.rounds)]
    results.figure("fresh_ratio", [min(rates[:first]) / median(rates[first:]) for rates in rounds])
    for number, rates in enumerate(zip(*rounds, strict=True), 1):
        results.read("fresh", f"batch {number}", "jobs/s", rates)


def _rates(stand: Stand, batch: int, batches: int) -> list[float]:
    """Jobs a second of each batch, from the first job of a new server on."""
    with stand.debian() as server, stand.product(server=server, warm=False) as product:
        return [batch / product.batch_seconds(batch) for _ in range(batches)]
