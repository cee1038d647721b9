"""One stream a page: server-sent events that say when to look at the page again.

They carry no contents. The page is read again as a whole, with the rights of whoever reads it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import Scope

from orchestrator.api.requesting import Trusted
from orchestrator.api.service import Service
from orchestrator.asgi.reading import ExactRoute
from orchestrator.console.signing import trusted_of
from orchestrator.console.visits import COOKIE, Here, own_path
from orchestrator.domain.errors import InvalidInput, NotAuthenticated, Problem
from orchestrator.domain.names import MAX_ID
from orchestrator.jobs.views import batch_view, job_view
from orchestrator.sessions import Session
from orchestrator.store.transaction import Transaction

router = APIRouter(route_class=ExactRoute)

_PATH = "/changes"
_STREAM = "text/event-stream"
#: Seconds between two messages of a stream at least, so that a busy service is not kept busy by
#: those who watch it.
_PAUSE = 2.0
#: How often a job or a batch is looked at, whose progress is no event.
_LOOK = 2.0
#: After so long a page is read again in any case: workers and capacities are no events, either.
_LONGEST = 60.0

Id = Annotated[int | None, Query(ge=1, le=MAX_ID)]
Look = Callable[[Transaction], Mapping[str, Any]]


def is_stream(scope: Scope) -> bool:
    """Whether a request is for a stream."""
    return own_path(scope) == _PATH


@router.get(_PATH)
async def stream(
    request: Request,
    visit: Here,
    after: Annotated[int, Query(ge=0, le=MAX_ID)],
    job: Id = None,
    batch: Id = None,
    last_event_id: Annotated[str | None, Header(max_length=20, pattern=r"^[0-9]+$")] = None,
) -> Response:
    """Say when something changes: anything after that event, or that job or batch."""
    if _STREAM not in request.headers.get("accept", ""):
        raise InvalidInput(f"this is a stream: ask for it with 'Accept: {_STREAM}'")
    number = after if last_event_id is None else int(last_event_id)
    look: Look | None = None
    if job is not None:
        look = partial(job_view, job_id=job)
    elif batch is not None:
        look = partial(batch_view, batch_id=batch)
    secret: str = request.scope[COOKIE]
    told = _changes(request, visit.service, trusted_of(request), secret, number, look)
    return StreamingResponse(
        told, media_type=_STREAM, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    )


async def _changes(
    request: Request,
    service: Service,
    trusted: Trusted[Session],
    secret: str,
    number: int,
    look: Look | None,
) -> AsyncIterator[str]:
    clock = asyncio.get_running_loop()
    heard, told_at = number, clock.time()
    seen: Mapping[str, Any] | None = None
    yield f"retry: {_PAUSE * 1000:.0f}\n\n"
    while not (service.waiters.closing or await request.is_disconnected()):
        is_over = seen is not None and seen["finished_at"] is not None
        looks = look is not None and not is_over
        try:
            # Whoever has signed out hears no more, however long the stream is open.
            valid = await trusted.renewed(service, secret)
            latest = await service.waiters.events_after(
                heard, min(valid, _LOOK if looks else _LONGEST)
            )
            found = await asyncio.to_thread(service.read, look) if look and looks else seen
        except NotAuthenticated:
            return
        except Problem:  # the database is away, or the job was archived: the page tells which
            return
        changed = latest > heard if look is None else found != seen
        heard, seen = latest, found
        if changed or clock.time() - told_at >= _LONGEST:
            told_at = clock.time()
            yield f"id: {heard}\nevent: changed\ndata: {heard}\n\n"
            await asyncio.sleep(_PAUSE)
        else:
            yield ": still here\n\n"
