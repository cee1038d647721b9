"""``python -m benchmarks``: run the experiments and report."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks import machine, report
from benchmarks.experiments import EXPERIMENTS
from benchmarks.figures import Results
from benchmarks.queues.rivals import missing
from benchmarks.sizes import FULL, QUICK, Sizes
from benchmarks.stand import LeftOut, Stand

_COMPLETE = Path("build/bench.json")
_PARTIAL = Path("build/bench-partial.json")
_PAGE = Path("docs/performance.md")


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and write; 0 if every target was reached."""
    arguments = _parser().parse_args(words)
    names = arguments.only or list(EXPERIMENTS)
    sizes = _sizes(arguments)
    complete = sizes == FULL and set(names) == set(EXPERIMENTS)
    console = Console()
    if {"queues", "durable"} & set(names) and (why := missing()):
        if complete:
            console.print(f"The comparison cannot be complete: {why}.")
            return 2
        console.print(f"Only some queues are compared: {why}.")
    # The product is stopped in order, whoever stops this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    results = Results()
    with Stand() as stand:
        described = machine.describe(stand.server)
        for name in names:
            begun = time.monotonic()
            try:
                with console.status(f"{name} …"):
                    EXPERIMENTS[name](stand, sizes, results)
            except LeftOut as why:
                results.left_out[name] = str(why)
                console.print(f"{name}: left out: {why}")
            else:
                console.print(f"{name}: {time.monotonic() - begun:.0f} s")
    report.show(console, results)
    path = _COMPLETE if complete else _PARTIAL
    report.write_json(path, results, described, sizes)
    console.print(f"written to {path}")
    if complete:
        report.write_page(_PAGE, results, described, sizes)
        console.print(f"written to {_PAGE}")
    return 0 if all(measured.met for measured in results.figures.values()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the product beside other queues. Only a complete run at full size "
        f"is written to {_COMPLETE} and {_PAGE}, any other to {_PARTIAL}.",
    )
    parser.add_argument(
        "--only",
        type=_names,
        metavar="NAME,…",
        help=f"some of the experiments: {', '.join(EXPERIMENTS)}",
    )
    parser.add_argument("--quick", action="store_true", help="a little of everything")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of each (default: 3)")
    parser.add_argument(
        "--history", type=int, metavar="N", help="finished jobs in the history (default: 1000000)"
    )
    parser.add_argument(
        "--volumes",
        type=_even,
        metavar="N",
        help="volumes of the installation that has many (default: 1000000)",
    )
    return parser


def _even(written: str) -> int:
    number = int(written)
    if number < 1000 or number % 2:
        raise argparse.ArgumentTypeError("an even number, 1000 at least")
    return number


def _names(listed: str) -> list[str]:
    names = [name for name in listed.split(",") if name]
    for name in names:
        if name not in EXPERIMENTS:
            raise argparse.ArgumentTypeError(f"there is no experiment {name!r}")
    return names


def _sizes(arguments: argparse.Namespace) -> Sizes:
    sizes = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        more = max(arguments.rounds, sizes.fine_rounds)
        sizes = replace(sizes, rounds=arguments.rounds, fine_rounds=more)
    if arguments.history is not None:
        sizes = replace(sizes, history=arguments.history)
    if arguments.volumes is not None:
        sizes = replace(sizes, fleet=arguments.volumes)
    return sizes


if __name__ == "__main__":
    sys.exit(main())
