"""The documents the service answers with, as types: plain dictionaries at run time.

Times are RFC 3339 text in UTC, sizes are bytes. ``/docs`` of a service describes each field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

T = TypeVar("T")

JobState = Literal["waiting", "queued", "running", "succeeded", "failed", "canceled"]
#: A job to submit: ``action``, ``backend``, ``volume``, ``params`` … as in ``POST /v1/jobs``.
JobRequest = Mapping[str, Any]


class Page(TypedDict, Generic[T]):
    """One page of a list; ``cursor`` is None on the last."""

    items: list[T]
    cursor: str | None


class JobError(TypedDict):
    """Why a job or an attempt did not succeed; further facts may stand beside these."""

    code: str
    detail: str
    retryable: bool


class WaitingOn(TypedDict):
    """What a job waits for."""

    kind: str
    detail: str
    job: int | None
    lane: str | None
    until: str | None
    since: str | None
    host: str | None


class Progress(TypedDict):
    """How far a running job has come."""

    done: int
    total: int
    unit: str
    message: str | None


class Step(TypedDict):
    """A line of a job's journal."""

    name: str
    state: str
    at: str
    detail: dict[str, Any] | None


class Attempt(TypedDict):
    """How an attempt ended that did not end the job well."""

    attempt: int
    outcome: str
    ended_at: str
    error: JobError | None


class Job(TypedDict):
    """One action on one target."""

    id: int
    action: str
    backend: str
    volume: str | None
    snapshot: str | None
    policy: str | None
    host: str | None
    params: dict[str, Any]
    state: JobState
    waiting_on: WaitingOn | None
    priority: int
    attempt: int
    max_attempts: int
    progress: Progress | None
    steps: list[Step]
    attempts: list[Attempt]
    result: dict[str, Any] | None
    error: JobError | None
    submitted_by: str
    account: str | None
    reason: str | None
    batch_id: int | None
    ref: str | None
    retry_of: int | None
    volume_id: str | None
    depends_on: list[int]
    cancel_requested: bool
    run_at: str | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    worker: str | None


class Batch(TypedDict):
    """Jobs that were accepted together."""

    id: int
    state: JobState
    total: int
    succeeded: int
    failed: int
    canceled: int
    unfinished: int
    submitted_by: str
    reason: str | None
    created_at: str
    finished_at: str | None
    job_ids: list[int] | None


class PlannedJob(TypedDict):
    """What one job would do."""

    action: str
    backend: str
    volume: str | None
    snapshot: str | None
    policy: str | None
    host: str | None
    ref: str | None
    params: dict[str, Any]
    would: str
    notes: list[str]
    waits_for: list[str]


class Plan(TypedDict):
    """What a submission would do."""

    jobs: list[PlannedJob]


class Backend(TypedDict):
    """A configured storage system."""

    name: str
    driver: str
    state: Literal["enabled", "draining", "disabled"]
    capabilities: list[str] | None
    parameters: dict[str, str] | None
    total_bytes: int | None
    free_bytes: int | None
    grain_bytes: int | None
    promised_bytes: int
    overcommit: float
    volumes: int
    hosts: list[str] | None
    error: JobError | None
    unavailable_since: str | None
    refreshed_at: str | None


class Lock(TypedDict):
    """A host's claim on a volume."""

    owner: str
    reason: str | None
    taken_by: str
    taken_at: str
    expires_at: str | None


class HeldLock(Lock):
    """A lock, with the volume that it is on."""

    backend: str
    volume: str


class Attachment(TypedDict):
    """A volume made usable on a host."""

    host: str
    device: str | None
    uris: list[str]
    read_only: bool
    boot_id: str | None
    opening: str | None
    attached_at: str


class Volume(TypedDict):
    """A volume as the inventory has it."""

    id: str
    backend: str
    name: str
    state: Literal["pending", "available", "restricted", "error", "removed"]
    size_bytes: int
    requested_bytes: int
    used_bytes: int
    metadata: dict[str, str]
    parameters: dict[str, str]
    settings: dict[str, Any]
    policy: str | None
    account: str | None
    address: str | None
    snapshot_reserve_used_percent: int | None
    parent_volume_id: str | None
    parent_snapshot: str | None
    lock: Lock | None
    attachments: list[Attachment]
    jobs: list[int]
    detail: str | None
    created_at: str
    changed_at: str


class Snapshot(TypedDict):
    """The contents of a volume, kept under a name."""

    id: str
    backend: str
    volume: str
    name: str
    state: Literal["pending", "available", "error", "removed"]
    size_bytes: int
    used_bytes: int
    created_at: str


class Policy(TypedDict):
    """Which clients may mount the volumes that have it."""

    id: str
    backend: str
    name: str
    state: Literal["pending", "available", "error", "removed"]
    rules: list[str]
    volumes: int
    jobs: list[int]
    created_at: str
    changed_at: str


class Event(TypedDict):
    """One line of history."""

    number: int | None
    at: str
    kind: str
    backend: str | None
    volume: str | None
    volume_id: str | None
    snapshot: str | None
    policy: str | None
    job_id: int | None
    actor: str
    reason: str | None
    data: dict[str, Any] | None


class FollowedEvent(Event):
    """One that is followed, with the epoch that its number is of."""

    epoch: NotRequired[int]


class EventPage(TypedDict):
    """Events in their order; ``next_after``, sent with ``epoch``, goes on from here."""

    items: list[Event]
    next_after: int
    epoch: int


class Token(TypedDict):
    """A token, without its secret."""

    id: str
    name: str
    role: Literal["reader", "operator", "admin"]
    project: str | None
    created_at: str
    expires_at: str | None


class NewToken(Token):
    """A token that was just made; ``token`` is not shown again."""

    token: str


class Schedule(TypedDict):
    """What is done again and again."""

    name: str
    cron: str
    action: str
    backend: str | None
    volumes: list[str] | None
    params: dict[str, Any]
    keep: dict[str, int] | None
    enabled: bool
    reason: str | None
    created_by: str
    created_at: str
    next_at: str | None
    last_run_at: str | None
    last_result: dict[str, Any] | None


class ScheduleInDetail(Schedule):
    """A schedule, and what became of the jobs of its last run."""

    last_jobs: dict[JobState, int]
    failed: list[dict[str, Any]]


class ScheduleRun(TypedDict):
    """A run that was asked for; without a result, the scheduler does it within seconds."""

    due_at: str
    job_ids: list[int]
    result: dict[str, Any] | None


class Amounts(TypedDict):
    """What is counted for an account."""

    bytes: int
    volumes: int
    snapshots: int | None


class Limits(TypedDict):
    """The most that an account may have on a backend, and what it has."""

    backend: str
    max_bytes: int | None
    max_volumes: int | None
    max_snapshots: int | None
    used: Amounts
    promised: Amounts | None


class Quota(Limits):
    """A quota that somebody has set."""

    account: str
    set_by: str
    set_at: str


class Holding(TypedDict):
    """Something that counts for an account: a volume, or an unfinished job."""

    kind: Literal["volume", "job"]
    backend: str
    volume: str | None
    volume_id: str | None
    snapshot: str | None
    action: str | None
    state: str
    bytes: int
    volumes: int
    snapshots: int | None
    since: str | None
    job: int | None


class Account(TypedDict):
    """What an account may have, has and has been promised, and a page of the rows it is of."""

    account: str
    at: str | None
    backends: list[Limits]
    entries: Page[Holding]


class Queue(TypedDict):
    """The queue as a whole; ``unfinished`` by state."""

    accepting: bool
    unfinished: dict[Literal["waiting", "queued", "running"], int]


class Asker(TypedDict):
    """Who asks, as the token says."""

    name: str
    role: str
    project: str | None


class Worker(TypedDict):
    """A worker process; ``alive`` if it has been seen within seconds."""

    host: str
    pid: int
    alive: bool
    seen_at: str
    started_at: str
    backends: list[str]


class Status(TypedDict):
    """How the service is; ``findings`` are the open ones by kind."""

    version: str
    database: str
    epoch: int
    now: str
    restored_at: str | None
    unchained_since: str | None
    you: Asker
    queue: Queue
    workers: list[Worker]
    backends: list[Backend]
    findings: dict[str, int]


class Archived(TypedDict):
    """How many jobs will be archived."""

    jobs: int


class ActionDescription(TypedDict):
    """An action, as declared."""

    name: str
    summary: str
    role: Literal["reader", "operator", "admin"]
    capability: str | None
    destructive: bool
    params: dict[str, Any]


class PossibleRepair(TypedDict):
    """One way to repair a finding."""

    name: str
    summary: str
    job: dict[str, Any]
    approval: bool


class Finding(TypedDict):
    """A difference between a backend and its record."""

    id: int
    backend: str
    kind: str
    state: str
    text: str
    volume: str | None
    volume_id: str | None
    snapshot: str | None
    policy: str | None
    host: str | None
    job_id: int | None
    detail: dict[str, Any]
    first_seen_at: str
    last_seen_at: str
    last_seen_by: int
    closed_at: str | None
    repair_job: int | None
    repairs: list[PossibleRepair]


class Restored(TypedDict):
    """Whether the database was restored from a backup, and that is not seen to yet."""

    restored_at: str | None
