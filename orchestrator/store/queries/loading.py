"""Queries that load volumes, and the unfinished jobs that will change them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypedDict

from orchestrator.store.asking import Query


class LaneJob(TypedDict):
    """An unfinished job in one of its lanes."""

    lane: str
    id: int
    action: str
    backend_id: int
    volume: str | None
    snapshot: str | None
    host: str | None
    params: dict[str, Any]
    reason: str | None
    volume_id: str | None
    snapshot_id: str | None
    account: str | None
    after: str
    #: Of each further target its role, kind, id and name; null or empty for most.
    targets: list[list[Any]] | None
    not_before: datetime | None
    #: Whether those behind it wait for it: it has begun, or its time has come.
    blocks: bool


class LiveVolume(TypedDict):
    """A volume that has not been removed, with the name of its backend."""

    backend: str
    id: str
    name: str
    state: str
    size_bytes: int
    metadata: dict[str, Any]
    parameters: dict[str, Any]
    settings: dict[str, Any]
    policy_id: int | None
    created_by_job: int | None
    account: str | None


class RecordedVolume(NamedTuple):
    """What is recorded of a volume that has not been removed, as little as there is to read."""

    id: str
    name: str
    state: str
    #: Whether a host has it.
    attached: bool
    #: JSON: its name, size, metadata, settings, export policy and snapshots; of each of these its
    #: id, name and size, the oldest first.
    written: str


@dataclass(frozen=True)
class JobsInLanes(Query[LaneJob]):
    """The unfinished jobs of these lanes, in the order of their ids."""

    lanes: list[str]


@dataclass(frozen=True)
class VolumesNamed(Query[LiveVolume]):
    """The live volumes of these names, each on the backend at the same place.

    Others that have one of the names on another of the backends may be among them.
    """

    backends: list[str]
    names: list[str]


@dataclass(frozen=True)
class VolumesRecorded(Query[RecordedVolume]):
    """So many live volumes of a backend by name, behind the name ``after``.

    Their snapshots are in the order of `orchestrator.resources.snapshot.order`.
    """

    backend_id: int
    after: str
    most: int
