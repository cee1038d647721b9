"""What the service answers about findings and their repairs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from orchestrator.contract.answers import Answer, Open
from orchestrator.domain.states import FindingKind, FindingState


class PossibleRepair(Answer):
    """One way to repair a finding."""

    name: str
    summary: str
    job: dict[str, Any] = Field(description="The job that it would be.")
    approval: bool = Field(description="Whether an administrator has to approve that job.")


class Finding(Answer):
    """A difference between a backend and its record."""

    id: int
    backend: str
    kind: Open[FindingKind]
    state: Open[FindingState]
    text: str
    volume: str | None = None
    volume_id: str | None = None
    snapshot: str | None = None
    policy: str | None = None
    host: str | None = None
    job_id: int | None = None
    detail: dict[str, Any]
    first_seen_at: datetime
    last_seen_at: datetime
    last_seen_by: int = Field(description="The audit (a job) that has seen it last.")
    closed_at: datetime | None = None
    repair_job: int | None = Field(
        default=None, description="The latest job that was to repair it."
    )
    repairs: list[PossibleRepair] = Field(default_factory=list)


class Restored(Answer):
    """Whether the database was restored from a backup."""

    restored_at: datetime | None = Field(
        description="When it was noticed; null: it was not, or was acknowledged since."
    )
