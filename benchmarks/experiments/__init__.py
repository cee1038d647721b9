"""The experiments: each brings up what it needs, measures in rounds, and takes it down."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.experiments import (
    audit,
    auditor,
    batch,
    clients,
    debian,
    durable,
    files,
    fresh,
    history,
    million,
    provider,
    queues,
    scale,
    scaling,
    single,
    waiters,
)
from benchmarks.figures import Results
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand

Experiment = Callable[[Stand, Sizes, Results], None]

#: By the name that ``--only`` takes, in the order in which they run.
EXPERIMENTS: dict[str, Experiment] = {
    "single": single.measure,
    "durable": durable.measure,
    "batch": batch.measure,
    "debian": debian.measure,
    "fresh": fresh.measure,
    "auditor": auditor.measure,
    "clients": clients.measure,
    "files": files.measure,
    "waiters": waiters.measure,
    "provider": provider.measure,
    "scale": scale.measure,
    "scaling": scaling.measure,
    "queues": queues.measure,
    "history": history.measure,
    "audit": audit.measure,
    "million": million.measure,
}
