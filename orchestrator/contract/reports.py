"""The report of a period."""

from __future__ import annotations

from datetime import date, datetime

from pydantic import Field

from orchestrator.contract.answers import Answer, Open
from orchestrator.domain.states import FindingKind, JobState

#: A report has up to about so many days: of longer periods, the last of every few.
MOST_DAYS = 370
#: The most removals, and causes of failures, that it names.
MOST_REMOVALS = 200
MOST_CAUSES = 100


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
    state: Open[JobState]
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

    kind: Open[FindingKind]
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
