"""What the service answers about history."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from orchestrator.contract.answers import Answer


class NamedObject(Answer):
    """An object that an event names beside its own volume, snapshot or policy."""

    role: str = Field(description="What it was in this event.", examples=["source"])
    kind: str = Field(examples=["volume"])
    name: str
    id: str | None = None
    backend: str | None = None


class Event(Answer):
    """One line of history."""

    number: int | None = Field(description="Grows without gaps; null until it is numbered.")
    at: datetime
    #: An `orchestrator.domain.states.EventKind`, or the name of an action.
    kind: str = Field(examples=["volume.grow"])
    backend: str | None = None
    volume: str | None = None
    volume_id: str | None = None
    snapshot: str | None = None
    policy: str | None = None
    job_id: int | None = None
    actor: str
    reason: str | None = None
    data: dict[str, Any] | None = None
    objects: list[NamedObject] | None = Field(
        default=None,
        exclude_if=lambda objects: objects is None,
        description="Further objects; absent where there are none.",
    )


class FollowedEvent(Event):
    """One of a stream that is followed, with the epoch of its number."""

    epoch: int | None = None


class EventPage(Answer):
    """Events in their order."""

    items: list[Event]
    next_after: int = Field(description="Send as `after` to go on from here.")
    epoch: int = Field(description="Send with it: changes where the database is restored.")
