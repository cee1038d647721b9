"""Events: the history, newest first."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from orchestrator.api.filters import check_backend
from orchestrator.asgi.reading import ExactRoute
from orchestrator.console.visits import PAGE, Here
from orchestrator.domain.names import MAX_ID, BackendName, VolumeName
from orchestrator.history.events import read_newest
from orchestrator.history.kinds import EVENT_KINDS, check_kind
from orchestrator.inventory.backends import configured_names
from orchestrator.store.transaction import Transaction

router = APIRouter(prefix="/events", route_class=ExactRoute)


@router.get("")
def list_(
    visit: Here,
    kind: Annotated[str | None, Query(max_length=40, pattern=r"^[a-z_.]+$")] = None,
    backend: BackendName | None = None,
    volume: VolumeName | None = None,
    job_id: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
    before: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
) -> Response:
    """List events, newest first, those with lower numbers than ``before``."""
    wanted = {"kind": kind, "backend": backend, "volume": volume, "job_id": job_id}
    filters = {name: value for name, value in wanted.items() if value is not None}

    def read(transaction: Transaction) -> dict[str, Any]:
        _, rows, _ = read_newest(transaction, PAGE, filters, before=before)
        if not rows:
            check_kind(kind)
            check_backend(transaction, backend)
        return {
            "events": rows[::-1],
            "older": rows[0].number if len(rows) == PAGE else None,
            "kinds": sorted(EVENT_KINDS),
            "backends": configured_names(transaction),
        }

    return visit.page("events.html", read)
