"""The product while an auditor's transaction stays open, and while nobody audits it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg

from benchmarks.figures import Results
from benchmarks.product import Product
from benchmarks.side_by_side import BATCH, SINGLE, times_worse
from benchmarks.sizes import Sizes
from benchmarks.stand import Stand

_COMPARED = (BATCH, SINGLE)

_READ = "SELECT count(*) FROM events"
_DEAD_ROWS = "SELECT sum(n_dead_tup)::bigint FROM pg_stat_user_tables"


def measure(stand: Stand, sizes: Sizes, results: Results) -> None:
    """Measure ``auditor_ratio``.

    A snapshot cannot be open in every second round only, so that there are two products with the
    same work; each on a server of its own, whose autovacuum and buffers it has for itself.
    """
    with (
        stand.another_server() as one,
        stand.another_server() as other,
        stand.product(server=one) as alone,
        stand.product(server=other) as audited,
    ):
        sides = {"without": alone, "with an auditor": audited}
        with _auditor(audited):
            _work([alone, audited], sizes)
            worse = [times_worse(results, "auditor", what, sides, sizes) for what in _COMPARED]
            for name, product in sides.items():
                results.read("auditor", f"dead rows, {name}", "rows", [_dead_rows(product)])
    results.figure("auditor_ratio", [1 / max(worse)])


@contextmanager
def _auditor(product: Product) -> Iterator[None]:
    """Keep a transaction open that has read, as a long report or a dump does."""
    with _connected(product) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        seen = connection.execute(_READ).fetchone()
        yield
        if connection.execute(_READ).fetchone() != seen:
            raise RuntimeError("the auditor has lost the snapshot that it read from")


def _work(products: Sequence[Product], sizes: Sizes) -> None:
    """Have both do the same by turns, until the auditor has been there for long."""
    until = time.monotonic() + sizes.auditor
    while time.monotonic() < until:
        for product in products:
            for what in _COMPARED:
                what.measured(product, sizes)


def _dead_rows(product: Product) -> float:
    """Row versions that nothing needs any more, by the server's own estimate."""
    with _connected(product) as connection:
        row = connection.execute(_DEAD_ROWS).fetchone()
    return float(row[0]) if row else 0.0


def _connected(product: Product) -> psycopg.Connection:
    return psycopg.connect(product.database_url.replace("+psycopg", ""))
