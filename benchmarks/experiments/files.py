"""Volumes of the file driver, and a shell loop that makes as many files."""

from __future__ import annotations

import subprocess
import time

from benchmarks.figures import Results, ratios
from benchmarks.product import FILES
from benchmarks.rounds import interleaved
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand

_LOOP = 'for n in $(seq 1 "$1"); do truncate -s 1M "$2/volume$n"; done'


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``file_ratio``."""

    def shell() -> float:
        # On the file system that holds the product's volumes.
        target = stand.scratch("truncated")
        begun = time.perf_counter()
        subprocess.run(
            ["/bin/sh", "-c", _LOOP, "sh", str(sizes.files), str(target)],
            check=True,
        )
        return time.perf_counter() - begun

    with stand.product() as product:
        shell()
        taken = interleaved(
            {
                "batch of volumes": lambda: product.batch_seconds(sizes.files, FILES),
                "loop of truncate": shell,
            },
            sizes.rounds,
        )
    results.figure("file_ratio", ratios(taken["batch of volumes"], taken["loop of truncate"]))
    for name, values in taken.items():
        results.read("files", name, "s", values)
