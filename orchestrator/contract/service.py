"""What the service answers about itself: status, queue, tokens, actions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from orchestrator.contract.answers import Answer, Open
from orchestrator.contract.inventory import Backend
from orchestrator.domain.states import Role


class Token(Answer):
    """A token, without its secret."""

    id: str
    name: str
    role: Open[Role]
    project: str | None = Field(
        default=None,
        description="For whose quota counts what is made with it; null: its own name's.",
    )
    created_at: datetime
    expires_at: datetime | None = None


class NewToken(Token):
    """A token that was just made."""

    token: str = Field(description="The token itself. It is not shown again.")


class Queue(Answer):
    """The queue as a whole."""

    accepting: bool = Field(description="Whether new jobs are taken.")
    unfinished: dict[Open[Literal["waiting", "queued", "running"]], int]


class Ready(Answer):
    """Whether the parts the service needs are there."""

    database: str
    broker: str


class ActionDescription(Answer):
    """An action, as declared."""

    name: str
    summary: str
    role: Open[Role]
    capability: str | None
    destructive: bool
    params: dict[str, Any] = Field(description="JSON schema of its parameters.")


class Asker(Answer):
    """Who asks, as the token says."""

    name: str
    role: Open[Role]
    project: str | None


class Worker(Answer):
    """A worker process."""

    host: str
    pid: int
    alive: bool = Field(description="Whether it has been seen within seconds.")
    seen_at: datetime
    started_at: datetime
    backends: list[str] = Field(description="The backends that it serves.")


class Status(Answer):
    """How the service is."""

    version: str
    database: str = Field(description="`sqlite` or `postgresql`.")
    epoch: int = Field(description="The epoch of event numbers.")
    now: datetime = Field(description="The database's clock, which everything goes by.")
    restored_at: datetime | None = Field(
        description="When a restore was noticed that nobody has acknowledged yet."
    )
    unchained_since: datetime | None = Field(
        description="When the oldest event happened that has no link of the chain of events yet. "
        "The scheduler makes links within seconds, a minute under load; one that has another key "
        "than the chain makes none."
    )
    you: Asker
    queue: Queue
    workers: list[Worker]
    backends: list[Backend]
    findings: dict[str, int] = Field(description="Open findings by kind.")
