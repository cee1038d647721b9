"""The report of a period, for those who answer for the storage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query

from orchestrator.actions.requests import Moment
from orchestrator.api.requesting import Reader, ServiceHere
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.reports import Report
from orchestrator.domain.names import BackendName
from orchestrator.findings.report import report

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=ExactRoute)


@router.get("/report", response_model=Report)
def show(
    service: ServiceHere,
    _actor: Reader,
    since: Annotated[
        Moment | None,
        Query(alias="from", description="When the period begins; 30 days before its end."),
    ] = None,
    until: Annotated[
        Moment | None, Query(alias="to", description="When it ends; now, if absent.")
    ] = None,
    backend: Annotated[BackendName | None, Query(description="Of this backend only.")] = None,
) -> Mapping[str, Any]:
    """Report how full backends were, how jobs ended, what failed, differed and was removed."""
    return service.read(
        lambda transaction: report(transaction, since=since, until=until, backend=backend)
    )
