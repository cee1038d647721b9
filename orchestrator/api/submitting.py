"""How a route submits: idempotency, plan, waiting, and the answer's status."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse

from orchestrator import failpoints
from orchestrator.actions.requests import JobRequest
from orchestrator.api.rendering import render
from orchestrator.api.requesting import wait_for_end
from orchestrator.api.service import Receipt, Service
from orchestrator.contract import jobs as contract
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import NotAuthenticated
from orchestrator.domain.targets import KINDS
from orchestrator.jobs.submission import PlannedJob, Submission
from orchestrator.jobs.views import batch_view, has_ended, job_view

_PATHS = {"job": "/v1/jobs", "batch": "/v1/batches"}


async def answer(
    service: Service, submission: Submission, *, wait: float, plan: bool = False
) -> Response:
    """Submit (or plan) and wait if wanted: 200 once ended, else 202 with its `Location`."""
    if plan:
        planned = await asyncio.to_thread(service.plan, submission)
        return JSONResponse(jsonable_encoder(_plan(planned)))
    failpoints.reach("api.received")
    receipt = await service.submit(submission)
    return await told(service, receipt, wait)


async def told(service: Service, receipt: Receipt, wait: float) -> Response:
    """The answer to an accepted submission."""
    view, status = receipt.view, 202
    body: bytes | None = None
    prefix = service.settings.api.root_path
    headers = {"Location": f"{prefix}{_PATHS[receipt.kind]}/{receipt.id}"}
    if receipt.repeated:
        headers["Idempotent-Replay"] = "true"
    if view["finished_at"] is not None:
        status = 200 if wait else 202
    elif wait:
        try:
            ended = await wait_for_end(service, receipt.kind, receipt.id, wait)
        except NotAuthenticated:
            ended = None  # it was accepted all the same, and the answer says so
        if ended is not None:
            # What only the acceptance tells (a batch's job ids) stays.
            view, status = {**view, **ended.view}, 200
            body = ended.body if view == ended.view else None
        headers["Preference-Applied"] = f"wait={wait:.0f}"
    if body is None:
        body = render(receipt.kind, view)
    failpoints.reach("api.before_answer")
    return Response(body, status_code=status, headers=headers, media_type="application/json")


async def wait_for(service: Service, kind: str, id_: int, seconds: float) -> Response:
    """The job or batch once it has ended, or as it is when the time is over."""
    if seconds > 0 and not await asyncio.to_thread(
        service.read, lambda transaction: has_ended(transaction, kind, id_)
    ):
        ended = await wait_for_end(service, kind, id_, seconds)
        if ended is not None:
            return Response(ended.body, media_type="application/json")
    read = {"job": job_view, "batch": batch_view}[kind]
    view = await asyncio.to_thread(service.read, lambda transaction: read(transaction, id_))
    body = render(kind, view)
    return Response(body, media_type="application/json")


def single(request: JobRequest, actor: Actor, *, reason: str | None, key: str | None) -> Submission:
    """A submission of one job."""
    return Submission(requests=[request], actor=actor, reason=reason, idempotency_key=key)


def _plan(planned: Sequence[PlannedJob]) -> contract.Plan:
    return contract.Plan(
        jobs=[
            contract.PlannedJob(
                action=job.request.action,
                backend=job.request.backend,
                **{kind: job.request.name_of(kind) for kind in KINDS},
                host=job.request.host,
                ref=job.request.ref,
                params=job.request.stored_params(),
                would=job.would,
                notes=job.notes,
                waits_for=job.waits_for,
            )
            for job in planned
        ]
    )
