"""The event feed: pages, and the same as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import Row

from orchestrator.api import models
from orchestrator.api.requesting import Limit, Reader, ServiceHere
from orchestrator.api.service import Service
from orchestrator.audit.events import read_after
from orchestrator.domain.errors import Gone, InvalidInput
from orchestrator.domain.names import BackendName, VolumeName
from orchestrator.domain.requests import MAX_ID

router = APIRouter(prefix="/v1/events", tags=["events"])

STREAM = "text/event-stream"
#: Events read at once for a stream.
_CHUNK = 500
#: Seconds of silence after which a comment shows that the stream is alive.
_KEEP_ALIVE = 15.0


@router.get(
    "",
    response_model=models.EventPage,
    responses={200: {"content": {STREAM: {"schema": {"type": "string"}}}}},
)
async def feed(
    request: Request,
    service: ServiceHere,
    _actor: Reader,
    after: Annotated[
        int, Query(ge=0, le=MAX_ID, description="Events with numbers above this.")
    ] = 0,
    limit: Limit = 100,
    kind: Annotated[
        str | None, Query(max_length=40, pattern=r"^[a-z_.]+$", examples=["volume.grow"])
    ] = None,
    backend: BackendName | None = None,
    volume: VolumeName | None = None,
    job_id: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
    last_event_id: Annotated[
        str | None, Header(max_length=20, description="Where a stream was left; like `after`.")
    ] = None,
) -> Any:
    """Read events in the order of their numbers, without gaps.

    With `Accept: text/event-stream` the answer is a stream that goes on as events happen;
    each carries its number as id, so that `Last-Event-ID` resumes it.
    """
    wanted = {"kind": kind, "backend": backend, "volume": volume, "job_id": job_id}
    filters = {name: value for name, value in wanted.items() if value is not None}
    if STREAM not in request.headers.get("accept", ""):
        rows = await _read(service, after, limit, filters)
        return {
            "items": [row._mapping for row in rows],
            "next_after": rows[-1].number if rows else after,
        }
    if last_event_id:
        number = last_event_id if last_event_id.isascii() and last_event_id.isdigit() else "-1"
        if not 0 <= int(number) <= MAX_ID:
            raise InvalidInput("Last-Event-ID is the number of an event", field="Last-Event-ID")
        after = int(last_event_id)
    await _read(service, after, 1, filters)  # say 410 now, while there is a status to say it with
    return StreamingResponse(
        _stream(request, service, after, filters),
        media_type=STREAM,
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _read(service: Service, after: int, limit: int, filters: dict[str, Any]) -> Any:
    return await asyncio.to_thread(
        service.read, lambda connection: read_after(connection, after, limit, filters)
    )


def _message(row: Row[Any]) -> str:
    event = models.Event.model_validate(dict(row._mapping))
    return f"id: {row.number}\nevent: {row.kind}\ndata: {event.model_dump_json()}\n\n"


async def _stream(
    request: Request, service: Service, after: int, filters: dict[str, Any]
) -> AsyncIterator[str]:
    heard = after
    while not (service.waiters.closing or await request.is_disconnected()):
        try:
            rows = await _read(service, after, _CHUNK, filters)
        except Gone:
            # Archived while this reader was slow: it is told so when it comes again.
            return
        if rows:
            yield "".join(map(_message, rows))
            after = heard = rows[-1].number
        if len(rows) < _CHUNK:
            told = await service.waiters.events_after(heard, _KEEP_ALIVE)
            if told == heard:
                yield ": still here\n\n"
            heard = told
