"""What the service answers about quotas and accounts."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from orchestrator.contract.answers import Answer, Open, Page


class Amounts(Answer):
    """What is counted for an account."""

    bytes: int
    volumes: int
    snapshots: int | None = Field(description="Null where that is not known.")


class Limits(Answer):
    """The most that an account may have on a backend; null: no limit."""

    backend: str
    max_bytes: int | None = None
    max_volumes: int | None = None
    max_snapshots: int | None = None
    used: Amounts = Field(description="What there is.")
    promised: Amounts | None = Field(description="What unfinished jobs will add to it.")


class Quota(Limits):
    """The most that an account may have on a backend, and what it has."""

    account: str = Field(description="A project, or the name of a token without one.")
    set_by: str
    set_at: datetime


class Holding(Answer):
    """Something that counts for an account: a volume, or an unfinished job."""

    kind: Open[Literal["volume", "job"]]
    backend: str
    volume: str | None = None
    volume_id: str | None = None
    snapshot: str | None = None
    action: str | None = Field(default=None, description="What the job does.")
    state: str
    bytes: int
    volumes: int
    snapshots: int | None = None
    since: datetime | None = None
    job: int | None = Field(default=None, description="The job, or the one that made the volume.")


class Account(Answer):
    """What an account may have, has and has been promised, and from which rows that comes."""

    account: str
    at: datetime | None = Field(default=None, description="Null: now.")
    backends: list[Limits]
    entries: Page[Holding]
