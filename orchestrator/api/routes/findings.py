"""Findings of audits, their repairs, and what is known of a restored database."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

from orchestrator.api.filters import of_backend
from orchestrator.api.keys import job_of, keep_job
from orchestrator.api.requesting import (
    Admin,
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
from orchestrator.api.routes.jobs import SUBMITTED, PlanOnly
from orchestrator.api.service import Receipt
from orchestrator.api.submitting import answer, told
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.answers import Page
from orchestrator.contract.findings import Finding, Restored
from orchestrator.contract.jobs import Job
from orchestrator.domain.exact import Exact
from orchestrator.domain.names import BackendName
from orchestrator.domain.states import FindingKind, FindingState
from orchestrator.findings.recording import finding, list_findings
from orchestrator.findings.repairing import finding_view, note_repair, repair_submission
from orchestrator.jobs.views import job_view
from orchestrator.ledger import restored
from orchestrator.store.transaction import Transaction

router = APIRouter(prefix="/v1", tags=["audit"], route_class=ExactRoute)


@router.get("/findings", response_model=Page[Finding])
def list_(
    service: ServiceHere,
    _actor: Reader,
    backend: BackendName | None = None,
    kind: FindingKind | None = None,
    state: Annotated[FindingState | None, Query(description="All, if absent.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """List findings, newest first."""
    before = position_of(cursor, int)
    filters = {"backend": backend, "kind": kind, "state": state}
    given = {name: value for name, value in filters.items() if value is not None}

    rows: Any = service.read(
        of_backend(
            backend,
            lambda transaction: list_findings(transaction, given, before=before, limit=limit),
        )
    )
    more = cursor_for(rows[-1]["id"]) if len(rows) == limit else None
    return {"items": [finding_view(row) for row in rows], "cursor": more}


@router.get("/findings/{finding_id}", response_model=Finding)
def show(service: ServiceHere, _actor: Reader, finding_id: IdInPath) -> dict[str, Any]:
    """Read a finding with the repairs that are possible."""
    row: Any = service.read(lambda transaction: finding(transaction, finding_id))
    return finding_view(row)


class RepairRequest(Exact):
    """How to repair a finding."""

    repair: Annotated[str, Field(max_length=40)] = Field(
        description="The name of one of its repairs."
    )
    approval: bool = Field(
        default=False, description="It begins only once an administrator has approved it."
    )


@router.post(
    "/findings/{finding_id}/repair",
    responses=SUBMITTED,
    status_code=202,
    response_model=Job,
)
async def repair(
    service: ServiceHere,
    actor: Operator,
    finding_id: IdInPath,
    wanted: RepairRequest,
    wait: PreferredWait,
    key: IdempotencyKey = None,
    reason: ReasonHeader = None,
    plan: PlanOnly = False,
) -> Response:
    """Submit the job that repairs a finding; the same repair after the same audit is one job."""
    what = ["repair", finding_id, wanted.model_dump(mode="json"), reason]
    if key is not None and not plan:
        before = await asyncio.to_thread(service.read, lambda c: job_of(c, actor.name, key, what))
        if before is not None:
            view = await asyncio.to_thread(service.read, lambda c: job_view(c, before))
            return await told(service, Receipt("job", before, view, repeated=True), wait)
    submission = await asyncio.to_thread(
        service.read,
        lambda transaction: repair_submission(
            transaction,
            finding_id,
            wanted.repair,
            actor,
            reason=reason,
            approval=wanted.approval or None,
        ),
    )
    if plan:
        return await answer(service, submission, wait=wait, plan=True)
    receipt = await service.submit(submission)

    def note(transaction: Transaction) -> None:
        note_repair(transaction, finding_id, receipt.id)
        if key is not None:
            keep_job(transaction, actor.name, key, what, receipt.id)

    await asyncio.to_thread(service.write, note)
    return await told(service, receipt, wait)


@router.get("/audit/restored", response_model=Restored)
def show_restored(service: ServiceHere, _actor: Reader) -> dict[str, Any]:
    """Tell whether the database was found to be older than it had been."""
    return service.read(restored.state)


@router.post("/audit/acknowledge", response_model=Restored)
def acknowledge(service: ServiceHere, actor: Admin, reason: ReasonHeader = None) -> dict[str, Any]:
    """Note that a restored database was seen to: rules repair findings again."""
    return service.write(lambda c: restored.acknowledge(c, actor.name, reason))
