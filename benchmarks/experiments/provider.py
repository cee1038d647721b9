"""Ganeti's attach through the provider, and a plain start of Python."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.figures import Results, ratios
from benchmarks.product import FILES
from benchmarks.rounds import interleaved
from benchmarks.sizes import Sizes
from benchmarks.stand import LeftOut, Stand
from workers.backends.file import loops

_VOLUME = {"VOL_NAME": "attached", "VOL_SIZE": "64"}


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``attach_ms``; raises `LeftOut` where there are no loop devices."""
    if not loops.available():
        raise LeftOut("there are no loop devices")
    with stand.product() as product:
        directory = stand.scratch("providers") / "orchestrator"
        address = ":".join(map(str, product.address))
        service = {"ORCHESTRATOR_URL": f"http://{address}", "ORCHESTRATOR_TOKEN": product.token}
        install = ["extstorage", "install", str(directory), "--backend", FILES]
        _run([sys.executable, "-m", "orchestrator", *install], {**os.environ, **service})
        try:
            for script in ("create", "attach"):
                _run([directory / script], _VOLUME)
            taken = interleaved(
                {
                    "attach of an attached volume": lambda: _typical(
                        sizes.starts, [directory / "attach"]
                    ),
                    "python3 -c pass": lambda: _typical(
                        sizes.starts, [sys.executable, "-c", "pass"]
                    ),
                },
                sizes.rounds,
            )
        finally:
            for script in ("detach", "remove"):
                _run([directory / script], _VOLUME)
    attach, python = taken["attach of an attached volume"], taken["python3 -c pass"]
    results.figure(
        "attach_ms", [ours - theirs for ours, theirs in zip(attach, python, strict=True)]
    )
    for name, values in taken.items():
        results.read("provider", name, "ms", values)
    results.read("provider", "attach against python3 -c pass", "times", ratios(attach, python))


def _typical(count: int, command: Sequence[str | Path]) -> float:
    """The median of the milliseconds that a command takes."""
    taken: list[float] = []
    for _ in range(count):
        begun = time.perf_counter()
        _run(command, _VOLUME)
        taken.append((time.perf_counter() - begun) * 1000)
    return median(taken)


def _run(command: Sequence[str | Path], environment: Mapping[str, str]) -> None:
    subprocess.run(
        command,
        env=environment,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
