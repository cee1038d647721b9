"""psycopg's pipeline, with nothing behind its Sync.

psycopg leaves a pipeline with a Flush behind the Sync. PostgreSQL arms
``idle_in_transaction_session_timeout`` when it answers the Sync, and disarms it at the next
message: the Flush. Nothing arms it again, so a process that freezes then keeps its locks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.generators import send


class Pipeline(psycopg.Pipeline):
    """Sends one Sync at its end, and reads all answers to it."""

    def _exit_gen(self) -> PQGen[None]:
        try:
            self._enqueue_sync()
            yield from self._communicate_gen()
        finally:
            yield from send(self.pgconn)
            yield from self._fetch_gen(flush=False)

    def begin(self) -> None:
        """Begin a transaction with what follows; psycopg would wait for its answer."""
        self.pgconn.send_query_params(self._conn._get_tx_start_command(), None)
        self.result_queue.append(None)


@contextmanager
def pipelined(raw: psycopg.Connection[Any], *, begin: bool) -> Iterator[None]:
    """What is executed in the block travels as one; an error is raised there or at the end.

    ``begin``: a transaction begins with it.
    """
    ours = raw._pipeline = Pipeline(raw)
    with raw.pipeline():
        if begin:
            ours.begin()
        yield
