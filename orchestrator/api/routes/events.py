"""The event feed: pages, and the same as server-sent events."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from sqlalchemy import Row

from orchestrator.api.filters import check_backend
from orchestrator.api.requesting import Limit, Reader, ServiceHere, Trusted, token_in
from orchestrator.api.service import Service
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.events import Event, EventPage
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import Gone, InvalidInput, NotAuthenticated
from orchestrator.domain.names import MAX_ID, BackendName, VolumeName
from orchestrator.history.events import before_all, read_feed, read_newest
from orchestrator.history.kinds import check_kind
from orchestrator.store.transaction import Transaction

router = APIRouter(prefix="/v1/events", tags=["events"], route_class=ExactRoute)

_ID = re.compile(r"(?:(?P<epoch>[0-9]{1,19})-)?(?P<number>[0-9]{1,19})", re.ASCII)
STREAM = "text/event-stream"
#: Events read at once for a stream.
_CHUNK = 500
#: Seconds of silence after which a comment shows that the stream is alive.
_KEEP_ALIVE = 15.0


@router.get(
    "",
    response_model=EventPage,
    responses={200: {"content": {STREAM: {"schema": {"type": "string"}}}}},
)
async def feed(
    request: Request,
    service: ServiceHere,
    _actor: Reader,
    after: Annotated[
        int | None,
        Query(
            ge=0,
            le=MAX_ID,
            description="Events with numbers above this; all that are left, if absent.",
        ),
    ] = None,
    epoch: Annotated[
        int | None, Query(ge=0, le=MAX_ID, description="The epoch that `after` is a number of.")
    ] = None,
    last: Annotated[
        int | None,
        Query(ge=1, le=1000, description="The newest so many instead, in their order."),
    ] = None,
    limit: Limit = 100,
    kind: Annotated[
        str | None, Query(max_length=40, pattern=r"^[a-z_.]+$", examples=["volume.grow"])
    ] = None,
    backend: BackendName | None = None,
    volume: VolumeName | None = None,
    job_id: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
    last_event_id: Annotated[
        str | None,
        Header(max_length=40, description="Where a stream was left: `EPOCH-NUMBER`."),
    ] = None,
) -> Any:
    """Read events in the order of their numbers, without gaps.

    With `Accept: text/event-stream` the answer is a stream that goes on as events happen;
    each carries epoch and number as id, so that `Last-Event-ID` resumes it.

    The epoch changes where the database was restored: numbers of another one are answered 410
    (`epoch_changed`), with the `epoch` and the `after` to go on with.
    """
    wanted = {"kind": kind, "backend": backend, "volume": volume, "job_id": job_id}
    filters = {name: value for name, value in wanted.items() if value is not None}
    if last is not None and (after or epoch is not None):
        raise InvalidInput("give either last or after: one of the two", field="last")
    if STREAM not in request.headers.get("accept", ""):
        if last is not None:
            epoch, rows, after = await asyncio.to_thread(
                service.read, lambda transaction: read_newest(transaction, last, filters)
            )
        else:
            epoch, rows, after = await _read(service, after, limit, filters, epoch)
        if not rows:
            await _check(service, kind, backend)
        return {
            "items": [row._mapping for row in rows],
            "next_after": rows[-1].number if rows else after,
            "epoch": epoch,
        }
    if last_event_id:
        epoch, after = _left_at(last_event_id)
    # Say 410 now, while there is a status to say it with.
    epoch, rows, after = await _read(service, after, 1, filters, epoch)
    if not rows:
        await _check(service, kind, backend)
    return StreamingResponse(
        _stream(request, service, after, filters, epoch),
        media_type=STREAM,
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _check(service: Service, kind: str | None, backend: str | None) -> None:
    """Refuse names of which there are no events, since they are not known."""
    check_kind(kind)
    await asyncio.to_thread(service.read, lambda transaction: check_backend(transaction, backend))


def _left_at(last_event_id: str) -> tuple[int | None, int]:
    """The epoch, if there is one, and the number."""
    told = _ID.fullmatch(last_event_id)
    if told is None or int(told["number"]) > MAX_ID or int(told["epoch"] or 0) > MAX_ID:
        raise InvalidInput(
            "Last-Event-ID is the id of an event of a stream: EPOCH-NUMBER", field="Last-Event-ID"
        )
    return None if told["epoch"] is None else int(told["epoch"]), int(told["number"])


async def _read(
    service: Service, after: int | None, limit: int, filters: dict[str, Any], epoch: int | None
) -> tuple[int, Sequence[Row[Any]], int]:
    """The epoch, the events, and after which number: before all that are left, if none is said."""

    def read(transaction: Transaction) -> tuple[int, Sequence[Row[Any]], int]:
        begin = before_all(transaction) if after is None else after
        return (*read_feed(transaction, begin, limit, filters, epoch), begin)

    return await asyncio.to_thread(service.read, read)


def _message(row: Row[Any], epoch: int) -> str:
    event = Event.model_validate(dict(row._mapping))
    return f"id: {epoch}-{row.number}\nevent: {row.kind}\ndata: {event.model_dump_json()}\n\n"


async def _stream(
    request: Request, service: Service, after: int, filters: dict[str, Any], epoch: int
) -> AsyncIterator[str]:
    heard = after
    trusted: Trusted[Actor] = request.app.state.trusted
    token = token_in(request.headers.raw) or ""
    while not (service.waiters.closing or await request.is_disconnected()):
        try:
            # Whoever has lost the right to read hears no more, however long the stream is open.
            valid = await trusted.renewed(service, token)
            _, rows, _ = await _read(service, after, _CHUNK, filters, epoch)
        except NotAuthenticated:
            return
        except Gone:
            # Archived while this reader was slow, or of an epoch that has ended: it is told so
            # when it comes again.
            return
        if rows:
            yield "".join(_message(row, epoch) for row in rows)
            after = heard = rows[-1].number
        if len(rows) < _CHUNK:
            told = await service.waiters.events_after(heard, min(valid, _KEEP_ALIVE))
            if told == heard:
                yield ": still here\n\n"
            heard = told
