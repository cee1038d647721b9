"""Batches: many jobs in one transaction, accepted whole or not at all."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field, TypeAdapter

from orchestrator.actions.requests import MAX_BATCH, AnyJobRequest, JobRequest, Reason, validated
from orchestrator.api.requesting import (
    Cursor,
    IdempotencyKey,
    IdInPath,
    Limit,
    Operator,
    PreferredWait,
    Reader,
    ReasonHeader,
    ServiceHere,
    cursor_for,
    position_of,
)
from orchestrator.api.routes.jobs import PlanOnly, Timeout
from orchestrator.api.submitting import answer, wait_for
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.answers import Page
from orchestrator.contract.jobs import Batch, Job, Plan
from orchestrator.domain.errors import BodyTooLarge, Problem
from orchestrator.domain.exact import Exact, read_json
from orchestrator.jobs import cancel as canceling
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.views import batch_view, list_batch_jobs, list_batches

router = APIRouter(prefix="/v1/batches", tags=["batches"], route_class=ExactRoute)


class BatchRequest(Exact):
    """Jobs to be accepted together."""

    jobs: Annotated[list[AnyJobRequest], Field(min_length=1, max_length=MAX_BATCH)]
    reason: Reason | None = Field(default=None, description="For the jobs that name none.")


_whole = TypeAdapter(BatchRequest)
_line: TypeAdapter[JobRequest] = TypeAdapter(AnyJobRequest)

_ROW_OF_FIELD = re.compile(r"jobs\.(\d+)")

NDJSON = "application/x-ndjson"


def _read_batch(kind: str, body: bytes) -> tuple[list[JobRequest], str | None]:
    """The jobs of a body, and the batch's reason. Raises `MalformedBody` and the like."""
    if kind.partition(";")[0].strip().lower() == NDJSON:
        return _read_lines(body), None
    written = read_json(body)
    if isinstance(written, list):
        written = {"jobs": written}
    try:
        batch: BatchRequest = validated(_whole.validate_python, written)
    except Problem as problem:
        row = _ROW_OF_FIELD.match(problem.field or "")
        if row is not None:
            problem.facts["index"] = int(row[1])
        raise
    return list(batch.jobs), batch.reason


def _read_lines(body: bytes) -> list[JobRequest]:
    requests: list[JobRequest] = []
    for number, line in enumerate(body.split(b"\n"), start=1):
        if not line.strip():
            continue
        if len(requests) == MAX_BATCH:
            raise BodyTooLarge(f"a batch has at most {MAX_BATCH} jobs: split it", field="body")
        try:
            requests.append(validated(_line.validate_python, read_json(line)))
        except Problem as problem:
            problem.facts |= {"line": number, "index": len(requests)}
            problem.detail = f"line {number}: {problem.detail}"
            raise
    return requests


_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/BatchRequest"},
            },
            NDJSON: {"schema": {"type": "string", "description": "One job a line."}},
        },
    }
}


@router.post(
    "",
    responses={
        200: {"model": Batch | Plan, "description": "Ended in time, or the plan."},
        202: {"model": Batch, "description": "Accepted."},
    },
    status_code=202,
    response_model=Batch,
    openapi_extra=_BODY,
)
async def submit(
    service: ServiceHere,
    actor: Operator,
    request: Request,
    wait: PreferredWait,
    key: IdempotencyKey = None,
    reason: ReasonHeader = None,
    plan: PlanOnly = False,
) -> Response:
    """Submit a batch: JSON, or NDJSON with a job a line."""
    body = await request.body()
    kind = request.headers.get("content-type", "application/json")
    requests, told = await asyncio.to_thread(_read_batch, kind, body)
    submission = Submission(
        requests=requests,
        actor=actor,
        batch=True,
        reason=told or reason,
        idempotency_key=key,
    )
    return await answer(service, submission, wait=wait, plan=plan)


@router.get("", response_model=Page[Batch])
def list_(
    service: ServiceHere, _actor: Reader, limit: Limit = 100, cursor: Cursor = None
) -> dict[str, Any]:
    """List batches, newest first."""
    before = position_of(cursor, int)
    found = service.read(lambda transaction: list_batches(transaction, before=before, limit=limit))
    more = cursor_for(found[-1]["id"]) if len(found) == limit else None
    return {"items": found, "cursor": more}


@router.get("/{batch_id}", response_model=Batch)
def show(service: ServiceHere, _actor: Reader, batch_id: IdInPath) -> dict[str, Any]:
    """Read a batch: its state and counts."""
    return service.read(lambda transaction: batch_view(transaction, batch_id))


@router.get("/{batch_id}/wait", response_model=Batch)
async def wait(
    service: ServiceHere, _actor: Reader, batch_id: IdInPath, timeout: Timeout = 60.0
) -> Response:
    """Wait for the end of all jobs: 200 with the batch, ended or as it is by then."""
    return await wait_for(service, "batch", batch_id, timeout)


@router.get("/{batch_id}/jobs", response_model=Page[Job])
def jobs(
    service: ServiceHere,
    _actor: Reader,
    batch_id: IdInPath,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """List the jobs of a batch, in the order of submission."""
    after = position_of(cursor, int)
    found = service.read(lambda transaction: list_batch_jobs(transaction, batch_id, after, limit))
    more = cursor_for(found[-1]["id"]) if len(found) == limit else None
    return {"items": found, "cursor": more}


@router.post("/{batch_id}/cancel", status_code=202, response_model=Batch)
def cancel(service: ServiceHere, actor: Operator, batch_id: IdInPath) -> dict[str, Any]:
    """Cancel those jobs of a batch that have not ended."""
    service.finished(
        service.write(lambda transaction: canceling.cancel_batch(transaction, batch_id, actor.name))
    )
    return service.read(lambda transaction: batch_view(transaction, batch_id))
