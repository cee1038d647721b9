"""One job at a time, beside other queues that keep their jobs in PostgreSQL."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from benchmarks.figures import Results, percentile, ratios
from benchmarks.queues.rivals import RIVALS, Rival, missing
from benchmarks.rounds import interleaved
from benchmarks.sizes import Sizes
from benchmarks.stand import LeftOut, Stand

_OURS = "this, over HTTP"


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``single_vs_durable``; raises `LeftOut` where the other queues are not installed."""
    if why := missing():
        raise LeftOut(why)
    with ExitStack() as stack:
        product = stack.enter_context(stand.product())
        sides = {_OURS: partial(product.latencies, sizes.singles)}
        for name, durable in RIVALS.items():
            if durable:
                rival = stack.enter_context(Rival(name, stand, one_at_a_time=True))
                sides[name] = partial(rival.latencies, sizes.singles)
        taken = interleaved(sides, sizes.rounds)
    medians = {name: [percentile(one, 0.5) for one in rounds] for name, rounds in taken.items()}
    for name, rounds in taken.items():
        for share in (0.5, 0.99):
            found = [percentile(one, share) * 1e3 for one in rounds]
            results.read("durable", f"{name}, {share:.0%} within", "ms", found)
    ours = medians.pop(_OURS)
    best = [min(values) for values in zip(*medians.values(), strict=True)]
    results.figure("single_vs_durable", ratios(ours, best))
