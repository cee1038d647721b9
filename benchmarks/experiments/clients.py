"""Many clients with one job each at a time, and as many clients of Celery."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.crowd import Act, finished_per_second
from benchmarks.figures import Results, ratios
from benchmarks.product import Product
from benchmarks.rounds import interleaved
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``clients_ratio``."""

    def rate(arrive: Callable[[], Act]) -> float:
        return finished_per_second(arrive, clients=sizes.clients, each=sizes.jobs_of_client)

    with (
        stand.celery() as celery,
        stand.product() as product,
        stand.product(synchronous_commit=False) as lax,
        stand.product("sqlite") as light,
    ):
        rates = interleaved(
            {
                "PostgreSQL": lambda: product_rate(product, sizes),
                "Celery, delay and get": lambda: rate(celery.arrive),
                "PostgreSQL, synchronous_commit off": lambda: product_rate(lax, sizes),
                "SQLite": lambda: product_rate(light, sizes),
            },
            sizes.rounds,
        )
    results.figure("clients_ratio", ratios(rates["PostgreSQL"], rates["Celery, delay and get"]))
    for name, values in rates.items():
        results.read("clients", name, "jobs/s", values)


def product_rate(product: Product, sizes: Sizes) -> float:
    """Jobs a second that the clients finish on this product."""

    def arrive() -> Act:
        client = product.client()

        def act() -> None:
            client.finish("/v1/jobs", product.job())

        return act

    rate = finished_per_second(arrive, clients=sizes.clients, each=sizes.jobs_of_client)
    product.settle()
    return rate
