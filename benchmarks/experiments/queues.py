"""Other queues on the same servers, side by side: empty jobs from submission to the last end."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.experiments.clients import product_rate
from benchmarks.figures import Results
from benchmarks.queues.rivals import RIVALS, Rival, missing
from benchmarks.rounds import interleaved
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure jobs a second of each queue; `benchmarks.queues.guarantees` says what they give."""
    count = sizes.queued
    with ExitStack() as stack:
        product = stack.enter_context(stand.product())
        plain = stack.enter_context(stand.celery())
        late = stack.enter_context(stand.celery(acks_late=True))
        sides: dict[str, Callable[[], float]] = {
            "this, one batch": lambda: count / product.batch_seconds(count),
            "this, 64 clients": lambda: product_rate(product, sizes),
            "celery": lambda: count / plain.seconds_for(count),
            "celery, acks_late": lambda: count / late.seconds_for(count),
        }
        for name in RIVALS:
            if missing():
                continue
            rival = stack.enter_context(Rival(name, stand))
            sides[name] = _rate(rival, count)
        found = interleaved(sides, sizes.rounds)
    for name, values in found.items():
        results.read("queues", name, "jobs/s", values)


def _rate(rival: Rival, count: int) -> Callable[[], float]:
    return lambda: count / rival.seconds_for(count)
