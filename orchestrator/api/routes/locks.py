"""All locks there are; those of one volume are read and taken below it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from orchestrator.api.filters import of_backend
from orchestrator.api.requesting import (
    Cursor,
    Limit,
    Reader,
    ServiceHere,
    cursor_for,
    position_of,
)
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.answers import Page
from orchestrator.contract.inventory import HeldLock
from orchestrator.domain.names import BackendName, HostName, VolumeName
from orchestrator.resources.volume import locks

router = APIRouter(prefix="/v1/locks", tags=["inventory"], route_class=ExactRoute)


@router.get("", response_model=Page[HeldLock])
def list_(
    service: ServiceHere,
    _actor: Reader,
    backend: Annotated[BackendName | None, Query(description="Name of the backend.")] = None,
    volume: Annotated[VolumeName | None, Query(description="Name of the volume.")] = None,
    owner: Annotated[HostName | None, Query(description="The host that holds it.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """List the held locks, by backend and volume."""
    position = position_of(cursor, str)
    after = None
    if position is not None:
        of, _, name = position.partition("/")
        after = of, name
    found = service.read(
        of_backend(
            backend,
            lambda transaction: locks.list_locks(
                transaction, backend=backend, volume=volume, owner=owner, after=after, limit=limit
            ),
        )
    )
    full = len(found) == limit
    more = cursor_for(f"{found[-1]['backend']}/{found[-1]['volume']}") if full else None
    return {"items": found, "cursor": more}
