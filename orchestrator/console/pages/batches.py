"""Batches: the list, and one batch with its bar and what failed by cause."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from orchestrator.api.requesting import Cursor, IdInPath, Operator, cursor_for, position_of
from orchestrator.api.routes import batches as routes
from orchestrator.asgi.reading import ExactRoute
from orchestrator.console.visits import PAGE, FormHere, Here
from orchestrator.jobs.views import batch_view, failures_of_batch, list_batch_jobs, list_batches
from orchestrator.store.transaction import Transaction

router = APIRouter(prefix="/batches", route_class=ExactRoute)


@router.get("")
def list_(visit: Here, cursor: Cursor = None) -> Response:
    """List batches, newest first."""
    before = position_of(cursor, int)

    def read(transaction: Transaction) -> dict[str, Any]:
        found = list_batches(transaction, before=before, limit=PAGE)
        more = cursor_for(found[-1]["id"]) if len(found) == PAGE else None
        return {"batches": found, "cursor": more}

    return visit.page("batches.html", read)


@router.get("/{batch_id}")
def show(visit: Here, batch_id: IdInPath, cursor: Cursor = None) -> Response:
    """One batch: its state, what failed by cause, and its jobs in their order."""
    after = position_of(cursor, int)

    def read(transaction: Transaction) -> dict[str, Any]:
        batch = batch_view(transaction, batch_id)
        found = list_batch_jobs(transaction, batch_id, after, PAGE)
        return {
            "batch": batch,
            "failures": failures_of_batch(transaction, batch_id) if batch["failed"] else [],
            "jobs": found,
            "cursor": cursor_for(found[-1]["id"]) if len(found) == PAGE else None,
        }

    return visit.page("batch.html", read, about={"batch": batch_id})


@router.post("/{batch_id}/cancel")
def cancel(visit: Here, actor: Operator, batch_id: IdInPath, _sent: FormHere) -> Response:
    """Cancel what has not ended of a batch."""
    routes.cancel(visit.service, actor, batch_id)
    return visit.go("batches", batch_id)
