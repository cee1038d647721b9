"""The same with a million finished jobs in the database as with none, and pages of lists."""

from __future__ import annotations

from statistics import median

from benchmarks.experiments.clients import product_rate
from benchmarks.figures import Results
from benchmarks.pages import Asked, far_in, milliseconds
from benchmarks.product import RAM, SLOW, Product
from benchmarks.side_by_side import BATCH, SINGLE, Compared, times_worse
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand


def _accept_rate(product: Product, sizes: Sizes) -> float:
    return sizes.batch / product.accept_seconds(sizes.batch)


_COMPARED = (
    SINGLE,
    Compared("64 clients", "jobs/s", True, product_rate),
    BATCH,
    Compared("batch, until accepted", "jobs/s", True, _accept_rate),
)


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``history_ratio`` and ``page_ms``."""
    with stand.product() as empty, stand.product(jobs_before=sizes.history) as full:
        pages = _pages(full, sizes.pages)
        sides = {"without": empty, "with a history": full}
        worse = [times_worse(results, "history", what, sides, sizes) for what in _COMPARED]
    results.figure("history_ratio", [max(worse)])
    slowest = max(pages, key=lambda name: median(pages[name]))
    results.figure("page_ms", pages[slowest])
    for name, values in pages.items():
        results.read("pages", name, "ms", values)


def _pages(product: Product, times: int) -> dict[str, list[float]]:
    """Milliseconds for each kind of page, each asked for so many times."""
    client = product.client()
    newest = client.get("/v1/jobs?limit=1")["items"][0]
    middle = newest["id"] // 2
    event = client.get(f"/v1/jobs/{middle}/events")["items"][0]
    volume = event["volume"]
    asked: dict[str, Asked] = {
        "jobs: newest": ("/v1/jobs", {}),
        "jobs: unfinished": ("/v1/jobs", {"state": "waiting,queued,running"}),
        "jobs: failed": ("/v1/jobs", {"state": "failed"}),
        "jobs: canceled (there are none)": ("/v1/jobs", {"state": "canceled"}),
        "jobs: of one volume": ("/v1/jobs", {"backend": RAM, "volume": volume}),
        "jobs: of one volume, any backend": ("/v1/jobs", {"volume": volume}),
        "jobs: of one batch": ("/v1/jobs", {"batch_id": str(middle // 1000)}),
        "jobs: of one user": ("/v1/jobs", {"submitted_by": "tenant7"}),
        "jobs: of a user who has none": ("/v1/jobs", {"submitted_by": "nobody"}),
        "jobs: of one action": ("/v1/jobs", {"action": "volume.remove"}),
        "jobs: of an action nobody used": ("/v1/jobs", {"action": "volume.clone"}),
        "jobs: of one user, failed": ("/v1/jobs", {"submitted_by": "tenant25", "state": "failed"}),
        "jobs: on behalf of one host": ("/v1/jobs", {"host": "node1"}),
        "jobs: of one snapshot": ("/v1/jobs", {"snapshot": "before-upgrade"}),
        "jobs of a batch": (f"/v1/batches/{middle // 1000}/jobs", {}),
        "volumes: first": (f"/v1/backends/{RAM}/volumes", {}),
        "volumes: by prefix": (f"/v1/backends/{RAM}/volumes", {"prefix": "set3/"}),
        "volumes: by a prefix that none has": (f"/v1/backends/{RAM}/volumes", {"prefix": "zz"}),
        "volumes: in error": (f"/v1/backends/{RAM}/volumes", {"state": "error"}),
        "events: oldest": ("/v1/events", {}),
        "events: from the middle": ("/v1/events", {"after": str(event["number"])}),
        "events: of one volume": ("/v1/events", {"backend": RAM, "volume": volume}),
        "events: of one job": ("/v1/events", {"job_id": str(middle)}),
        "events: of one kind": ("/v1/events", {"kind": "volume.remove"}),
        "events: failures": ("/v1/events", {"kind": "job.failed"}),
        "events: of a rare kind": ("/v1/events", {"kind": "lock.broken"}),
        "events: of a backend that has none": ("/v1/events", {"backend": SLOW}),
        "history of one job": (f"/v1/jobs/{middle}/events", {}),
    }
    asked["jobs: ten pages in"] = far_in(client, asked["jobs: newest"])
    found = {name: milliseconds(client, page, times) for name, page in asked.items()}
    client.close()
    return found
