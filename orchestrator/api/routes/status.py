"""How the service is, in one answer: for the screen of whoever is called at night."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy import func, select

from orchestrator import __version__
from orchestrator.api.requesting import Reader, ServiceHere
from orchestrator.api.service import Service
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.service import Status
from orchestrator.domain.actors import Actor
from orchestrator.domain.queues import backend_queue
from orchestrator.domain.states import FindingState
from orchestrator.inventory.backends import backend_views
from orchestrator.inventory.hosts import ALIVE_SECONDS
from orchestrator.jobs.intake import queue_view
from orchestrator.ledger.chain import unchained_since
from orchestrator.store.columns import db_now
from orchestrator.store.lives import present
from orchestrator.store.tables import findings, installation, workers
from orchestrator.store.transaction import Transaction

router = APIRouter(tags=["service"], route_class=ExactRoute)


@router.get("/v1/status", response_model=Status)
def status(service: ServiceHere, actor: Reader) -> dict[str, Any]:
    """Read how the service is: version, queue, workers, backends, open findings."""
    return service.read(lambda transaction: status_view(transaction, service, actor))


def status_view(transaction: Transaction, service: Service, actor: Actor) -> dict[str, Any]:
    """How the service is, as ``actor`` may know it."""
    open_ = select(findings.c.kind, func.count()).where(findings.c.state == FindingState.OPEN)
    found = backend_views(transaction)
    return {
        "version": __version__,
        "database": service.database.kind,
        "epoch": present(transaction).epoch,
        "now": transaction.execute(select(db_now())).scalar_one(),
        "restored_at": transaction.execute(select(installation.c.restored_at)).scalar_one(),
        "unchained_since": unchained_since(transaction),
        "you": {"name": actor.name, "role": actor.role, "project": actor.project},
        "queue": queue_view(transaction),
        "workers": _workers(transaction, [backend["name"] for backend in found]),
        "backends": found,
        "findings": dict(transaction.execute(open_.group_by(findings.c.kind)).all()),
    }


def _workers(transaction: Transaction, names: list[str]) -> list[dict[str, Any]]:
    alive = (workers.c.seen_at > db_now(-ALIVE_SECONDS)).label("alive")
    rows = transaction.execute(select(workers, alive).order_by(workers.c.host, workers.c.pid))
    return [
        {
            **row._mapping,
            "alive": bool(row.alive),
            "backends": [name for name in names if backend_queue(name) in row.queues],
        }
        for row in rows
    ]
