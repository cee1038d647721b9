"""What the service answers about backends, volumes, snapshots and export policies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from orchestrator.contract.answers import Answer, Open, OpenText
from orchestrator.contract.jobs import JobError
from orchestrator.domain.states import (
    BackendState,
    Opening,
    PolicyState,
    SnapshotState,
    VolumeState,
)


class Backend(Answer):
    """A configured storage system."""

    name: str
    driver: str
    state: Open[BackendState]
    capabilities: list[str] | None = Field(
        default=None, description="Null until a worker has looked."
    )
    parameters: dict[str, str] | None = Field(
        default=None,
        description="What volumes may have values of their own for, and what that means; null "
        "until a worker has looked.",
    )
    total_bytes: int | None = None
    free_bytes: int | None = None
    grain_bytes: int | None = None
    promised_bytes: int = Field(
        description="The sizes of its volumes, and what unfinished jobs will add."
    )
    overcommit: float = Field(description="How many times its capacity may be promised.")
    volumes: int
    hosts: list[str] | None = None
    error: JobError | None = Field(default=None, description="What was wrong at the last look.")
    unavailable_since: datetime | None = Field(
        default=None,
        description="Since when it is out of reach, so that its jobs wait; null: it is not.",
    )
    refreshed_at: datetime | None = None


class Lock(Answer):
    """A host's claim on a volume."""

    owner: str
    reason: str | None = None
    taken_by: str
    taken_at: datetime
    expires_at: datetime | None = None


class HeldLock(Lock):
    """A lock, with the volume that it is on."""

    backend: str
    volume: str


class Attachment(Answer):
    """A volume made usable on a host."""

    host: str
    device: str | None = None
    uris: list[str] = Field(default_factory=list)
    read_only: bool
    boot_id: str | None = None
    opening: OpenText[Opening] | None = Field(
        default=None, description="shared, exclusive, or null."
    )
    attached_at: datetime


class Volume(Answer):
    """A volume as the inventory has it."""

    id: str
    backend: str
    name: str
    state: Open[VolumeState]
    size_bytes: int
    requested_bytes: int
    used_bytes: int
    metadata: dict[str, str]
    parameters: dict[str, str] = Field(description="Its own values for the backend's parameters.")
    settings: dict[str, Any] = Field(
        description="How it behaves, as far as that is known: autosize, junction path …"
    )
    policy: str | None = Field(default=None, description="Its export policy; null: it has none.")
    account: str | None = Field(default=None, description="For whose quota it counts.")
    address: str | None = Field(default=None, description="Where hosts mount it from.")
    snapshot_reserve_used_percent: int | None = Field(
        default=None, description="How much of their reserve its snapshots use."
    )
    parent_volume_id: str | None = None
    parent_snapshot: str | None = None
    lock: Lock | None = None
    attachments: list[Attachment] = Field(default_factory=list)
    jobs: list[int] = Field(
        default_factory=list, description="Unfinished jobs that change it, in their order."
    )
    detail: str | None = Field(default=None, description="Why the state is error.")
    created_at: datetime
    changed_at: datetime


class Snapshot(Answer):
    """The contents of a volume, kept under a name."""

    id: str
    backend: str
    volume: str
    name: str
    state: Open[SnapshotState]
    size_bytes: int
    used_bytes: int
    created_at: datetime


class Policy(Answer):
    """Which clients may mount the volumes that have it."""

    id: str
    backend: str
    name: str
    state: Open[PolicyState]
    rules: list[str] = Field(description="In their order; none: nobody is admitted.")
    volumes: int = Field(description="How many volumes have it.")
    jobs: list[int] = Field(default_factory=list, description="Unfinished jobs that change it.")
    created_at: datetime
    changed_at: datetime
