"""A thousand requests that wait for one job: how long until all have their answer."""

from __future__ import annotations

import asyncio
import json
import resource
import time
import urllib.request
from datetime import datetime

from benchmarks.figures import Results
from benchmarks.product import SLOW, Product
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``waiters``."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with stand.product() as product:
        found = [asyncio.run(_round(product, sizes.waiters)) for _ in range(sizes.rounds)]
    results.figure("waiters", [last for _, last in found])
    results.read("waiters", "first answer", "s", [first for first, _ in found])
    results.read("waiters", "last answer", "s", [last for _, last in found])


async def _round(product: Product, count: int) -> tuple[float, float]:
    """Seconds from the job's end to the first and to the last answer."""
    client = product.client()
    accepted = json.loads(client.accept("/v1/jobs", product.job(SLOW)))
    request = (
        f"GET /v1/jobs/{accepted['id']}/wait?timeout=120 HTTP/1.1\r\n"
        f"Host: {product.address[0]}\r\nAuthorization: Bearer {product.token}\r\n"
        "Connection: close\r\n\r\n"
    ).encode()
    waiting = [asyncio.create_task(_wait(product, request)) for _ in range(count)]
    there = await _all_there(product, count)
    answers = await asyncio.gather(*waiting)
    bodies = {answer.partition(b"\r\n\r\n")[2] for answer, _ in answers}
    if len(bodies) != 1 or any(not answer.startswith(b"HTTP/1.1 200 ") for answer, _ in answers):
        raise RuntimeError(f"waiters were answered differently: {sorted(bodies)[:2]}")
    ended = datetime.fromisoformat(json.loads(bodies.pop())["finished_at"]).timestamp()
    if there > ended:
        raise RuntimeError(f"the job ended before all {count} waiters were there")
    moments = [moment for _, moment in answers]
    client.close()
    product.settle()
    return min(moments) - ended, max(moments) - ended


async def _wait(product: Product, request: bytes) -> tuple[bytes, float]:
    """The whole answer, and the moment it was there."""
    reader, writer = await asyncio.open_connection(*product.address)
    writer.write(request)
    answer = await reader.read()
    moment = time.time()
    writer.close()
    return answer, moment


async def _all_there(product: Product, count: int) -> float:
    """The moment when the service counts all of them as waiting."""
    url = "http://{}:{}/metrics".format(*product.address)

    def waiting() -> int:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own
            lines = answer.read().decode().splitlines()
        [told] = [line for line in lines if line.startswith("orchestrator_waiters ")]
        return int(float(told.split()[1]))

    while await asyncio.to_thread(waiting) < count:
        await asyncio.sleep(0.05)
    return time.time()
