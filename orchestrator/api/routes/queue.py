"""The queue as a whole: whether it takes new jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from pydantic import Field

from orchestrator.actions.requests import Reason
from orchestrator.api.requesting import Admin, Reader, ServiceHere
from orchestrator.api.service import Service
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.service import Queue
from orchestrator.domain.actors import Actor
from orchestrator.domain.exact import Exact
from orchestrator.jobs.intake import queue_view, set_accepting

router = APIRouter(prefix="/v1/queue", tags=["queue"], route_class=ExactRoute)


@router.get("", response_model=Queue)
def show(service: ServiceHere, _actor: Reader) -> Mapping[str, Any]:
    """Tell whether new jobs are taken, and how many have not ended."""
    return service.read(queue_view)


class Change(Exact):
    """Why the queue is drained or resumed."""

    reason: Reason | None = Field(default=None, description="Kept in the history.")


@router.post("/drain", response_model=Queue)
def drain(service: ServiceHere, actor: Admin, change: Change | None = None) -> Mapping[str, Any]:
    """Take no new jobs. Those that were accepted go on until they end."""
    return _set(service, False, actor, change)


@router.post("/resume", response_model=Queue)
def resume(service: ServiceHere, actor: Admin, change: Change | None = None) -> Mapping[str, Any]:
    """Accept new jobs again."""
    return _set(service, True, actor, change)


def _set(
    service: Service, accepting: bool, actor: Actor, change: Change | None
) -> Mapping[str, Any]:
    reason = change.reason if change else None
    return service.write(
        lambda transaction: set_accepting(transaction, accepting, actor.name, reason)
    )
