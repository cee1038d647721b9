"""The client's method for the report of a period, and what it answers."""

from __future__ import annotations

from typing import TypedDict, cast

from orchestrator.client.binding import operation
from orchestrator.client.steps import Call, Steps, given


class CapacityDay(TypedDict):
    """How full a backend was at the last look of a day (UTC)."""

    day: str
    at: str
    total_bytes: int | None
    free_bytes: int | None
    promised_bytes: int
    volumes: int
    volume_bytes: int
    used_bytes: int
    snapshots: int


class BackendCapacity(TypedDict):
    """How full a backend was over time."""

    backend: str
    days: list[CapacityDay]


class EndedJobs(TypedDict):
    """Jobs of one action that ended one way."""

    action: str
    state: str
    jobs: int
    median_seconds: float | None
    p95_seconds: float | None
    longest_seconds: float | None


class FailedJob(TypedDict):
    """The latest job of a cause."""

    job_id: int
    action: str
    backend: str
    volume: str | None
    error_detail: str | None
    finished_at: str


class Cause(TypedDict):
    """Why jobs failed."""

    code: str | None
    failures: int
    latest: FailedJob


class FindingsOfKind(TypedDict):
    """Differences between backends and their records."""

    kind: str
    opened: int
    closed: int
    open_now: int


class Removal(TypedDict):
    """Something that was removed, by whom and why."""

    number: int | None
    at: str
    actor: str
    kind: str
    backend: str | None
    volume: str | None
    volume_id: str | None
    snapshot: str | None
    policy: str | None
    job_id: int | None
    reason: str | None


class Removals(TypedDict):
    """How much was removed, and the latest of it."""

    total: int
    items: list[Removal]


#: The report of a period; it has ``from``, which is no name in Python.
AuditReport = TypedDict(
    "AuditReport",
    {
        "from": str,
        "to": str,
        "backend": str | None,
        "made_at": str,
        "capacity": list[BackendCapacity],
        "jobs": list[EndedJobs],
        "failures": list[Cause],
        "findings": list[FindingsOfKind],
        "removals": Removals,
    },
)


class ReportMethods:
    """Reports of a period."""

    @operation
    def audit_report(
        self, since: str | None = None, until: str | None = None, *, backend: str | None = None
    ) -> Steps[AuditReport]:
        """The report from ``since`` until ``until`` (RFC 3339), by default the last 30 days.

        Raises `UnknownBackend` if there never was the backend.
        """
        period = {"from": since, "to": until}
        answer = yield Call(
            method="GET",
            path="/v1/audit/report",
            params=given(**period, backend=backend),
            repeatable=True,
        )
        return cast(AuditReport, answer.body)
