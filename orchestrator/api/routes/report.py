"""The report of a period, for those who answer for the storage."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from orchestrator.api.models import Answer
from orchestrator.api.requesting import Reader, ServiceHere
from orchestrator.asgi.reading import ExactRoute
from orchestrator.domain.names import BackendName
from orchestrator.domain.requests import Moment
from orchestrator.domain.states import FindingKind, JobState
from orchestrator.findings.report import MOST_CAUSES, MOST_DAYS, MOST_REMOVALS, report

router = APIRouter(prefix="/v1/audit", tags=["audit"], route_class=ExactRoute)


class CapacityDay(Answer):
    """How full a backend was at the last look of a day (UTC); sizes are bytes."""

    day: date
    at: datetime
    total_bytes: int | None
    free_bytes: int | None
    promised_bytes: int
    volumes: int
    volume_bytes: int
    used_bytes: int
    snapshots: int


class BackendCapacity(Answer):
    """How full a backend was over time."""

    backend: str
    days: list[CapacityDay] = Field(
        description=f"Up to about {MOST_DAYS}: of longer periods, the last day of every few."
    )


class EndedJobs(Answer):
    """Jobs of one action that ended one way; times are those from start to end."""

    action: str
    state: JobState
    jobs: int
    median_seconds: float | None
    p95_seconds: float | None = Field(description="95 of 100 took no longer.")
    longest_seconds: float | None


class LatestFailure(Answer):
    """The latest job of a cause."""

    job_id: int
    action: str
    backend: str
    volume: str | None
    error_detail: str | None
    finished_at: datetime


class Cause(Answer):
    """Why jobs failed."""

    code: str | None
    failures: int
    latest: LatestFailure


class FindingsOfKind(Answer):
    """Differences between backends and their records."""

    kind: FindingKind
    opened: int = Field(description="First seen in the period.")
    closed: int = Field(description="Gone in the period.")
    open_now: int


class Removal(Answer):
    """Something that was removed, by whom and why."""

    number: int | None
    at: datetime
    actor: str
    kind: str
    backend: str | None
    volume: str | None
    volume_id: str | None
    snapshot: str | None
    policy: str | None
    job_id: int | None
    reason: str | None


class Removals(Answer):
    """What was removed."""

    total: int
    items: list[Removal] = Field(description=f"The latest {MOST_REMOVALS}.")


class Report(Answer):
    """The report of a period."""

    since: datetime = Field(alias="from")
    until: datetime = Field(alias="to", description="This moment is not in it.")
    backend: str | None
    made_at: datetime
    capacity: list[BackendCapacity]
    jobs: list[EndedJobs] = Field(description="Those that ended in the period.")
    failures: list[Cause] = Field(
        description=f"The most frequent first, {MOST_CAUSES} causes at most."
    )
    findings: list[FindingsOfKind]
    removals: Removals


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
    """Tell how full backends were, how jobs went, what failed, what differed and what went."""
    return service.read(
        lambda connection: report(connection, since=since, until=until, backend=backend)
    )
