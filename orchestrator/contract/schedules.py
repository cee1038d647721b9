"""What the service answers about schedules and their runs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from orchestrator.contract.answers import Answer, Open
from orchestrator.contract.jobs import JobError
from orchestrator.domain.keeping import Keep
from orchestrator.domain.states import JobState


def _known(keep: Any) -> Any:
    """Without what a newer service may keep besides."""
    if not isinstance(keep, dict):
        return keep
    return {name: count for name, count in keep.items() if name in Keep.model_fields}


class Refusal(Answer):
    """Why a job of a schedule was not submitted."""

    volume: str | None = None
    snapshot: str | None = None
    code: str = Field(examples=["locked"])
    detail: str


class RunResult(Answer):
    """What came of a run of a schedule: jobs, or a file with events."""

    due_at: datetime = Field(description="The time that it stands for.")
    submitted: int | None = None
    deletions: int | None = Field(
        default=None, description="Jobs that delete old snapshots once the new one was made."
    )
    refused: list[Refusal] | None = Field(default=None, description="Up to 20 of them.")
    refused_in_all: int | None = None
    jobs: tuple[int, int] | None = Field(
        default=None, description="The lowest and the highest id of its jobs."
    )
    events: int | None = Field(default=None, description="How many events were exported.")
    first: int | None = Field(default=None, description="The number of the first one.")
    last: int | None = Field(default=None, description="Exported are the events up to this number.")
    link: str | None = Field(default=None, description="The link of the chain there.")
    file: str | None = Field(default=None, description="The last file that was written.")
    sha256: str | None = Field(default=None, description="What that file's SHA-256 is.")
    error: str | None = Field(default=None, description="Why no file could be written.")


class Schedule(Answer):
    """What is done again and again."""

    name: str = Field(examples=["hourly"])
    cron: str = Field(examples=["0 * * * *"])
    action: str = Field(examples=["snapshot.create"])
    backend: str | None = None
    volumes: list[str] | None = Field(description="Patterns of names.", examples=[["vm*"]])
    params: dict[str, Any]
    keep: Annotated[Keep | None, BeforeValidator(_known)] = Field(
        description="Which of its snapshots are kept; null: all."
    )
    enabled: bool
    reason: str | None = None
    created_by: str = Field(description="The name of the token.")
    created_at: datetime
    next_at: datetime | None = Field(description="When it runs next; null: it is disabled.")
    last_run_at: datetime | None = None
    last_result: RunResult | None = None


class FailedJob(Answer):
    """A job of a schedule that failed or was canceled."""

    id: int
    action: str
    volume: str | None = None
    snapshot: str | None = None
    error: JobError | None = None


class ScheduleInDetail(Schedule):
    """A schedule, and what became of the jobs of its last run."""

    last_jobs: dict[Open[JobState], int] = Field(description="How many of them are in which state.")
    failed: list[FailedJob] = Field(description="Up to 20 of those that failed or were canceled.")


class ScheduleRun(Answer):
    """A run that somebody asked for."""

    due_at: datetime
    job_ids: list[int]
    result: RunResult | None = Field(description="Null: the scheduler does it within seconds.")
