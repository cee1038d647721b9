"""Hosts and their workers: who is alive and serves what."""

from __future__ import annotations

import json

from sqlalchemy import delete, exists, select

from orchestrator.domain.errors import InUse
from orchestrator.domain.queues import backend_queue
from orchestrator.store.columns import db_now
from orchestrator.store.queries.claiming import SeeWorker
from orchestrator.store.tables import workers
from orchestrator.store.transaction import Transaction

#: A worker not seen for this many seconds does not count as alive.
ALIVE_SECONDS = 15.0


def live_hosts(transaction: Transaction, backend: str) -> set[str]:
    """Hosts with a live worker that serves the backend."""
    rows = transaction.execute(
        select(workers.c.host, workers.c.queues).where(workers.c.seen_at > db_now(-ALIVE_SECONDS))
    )
    return {row.host for row in rows if backend_queue(backend) in row.queues}


def refuse_living(transaction: Transaction, host: str) -> None:
    """Raise `InUse` if a worker on this host is alive, whatever it serves: it is not fenced."""
    living = exists().where(workers.c.host == host, workers.c.seen_at > db_now(-ALIVE_SECONDS))
    if transaction.execute(select(living)).scalar_one():
        raise InUse(
            f"a worker on host {host} is alive, so the host is not fenced: detach the volume there "
            f"without force; of a host that died just now this is known {ALIVE_SECONDS:.0f} "
            "seconds later",
            field="host",
            hosts=[host],
        )


def seen(
    transaction: Transaction,
    worker: str,
    *,
    host: str,
    pid: int,
    boot_id: str | None,
    queues: list[str],
) -> None:
    """Note that the worker process is alive."""
    transaction.ask(SeeWorker(worker, host, pid, boot_id, json.dumps(queues)))


def gone(transaction: Transaction, worker: str) -> None:
    """Strike a worker that has stopped."""
    transaction.execute(delete(workers).where(workers.c.id == worker))


def forget_dead(transaction: Transaction, older_than: float) -> int:
    """Strike workers not seen for this many seconds; returns how many."""
    return transaction.execute(
        delete(workers).where(workers.c.seen_at < db_now(-older_than))
    ).rowcount
