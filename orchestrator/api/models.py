"""What the service answers: models with descriptions, from which OpenAPI is made."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.domain.keeping import Keep
from orchestrator.domain.states import (
    BackendState,
    FindingKind,
    FindingState,
    JobState,
    PolicyState,
    Role,
    SnapshotState,
    VolumeState,
)

T = TypeVar("T")

#: What a token may be called.
NAME_OF_TOKENS = r"^[A-Za-z0-9._@-]+$"


class Answer(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(extra="ignore")


class Page(Answer, Generic[T]):
    """One page of a list."""

    items: list[T]
    cursor: str | None = Field(
        description="Send as `cursor` to get the next page; null: this is the last."
    )


class ProblemDocument(BaseModel):
    """An error (RFC 9457), with a stable code and a sentence that says what to do."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["The size is not allowed."])
    status: int = Field(examples=[422])
    code: str = Field(description="Stable; programs act on this.", examples=["invalid_size"])
    detail: str = Field(description="What happened and what to do.")
    field: str | None = Field(default=None, description="The part of the request at fault.")


class JobError(Answer):
    """Why a job or an attempt did not succeed."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(examples=["no_space"])
    detail: str = Field(description="What happened and what to do.")
    retryable: bool = Field(description="Whether the same thing may work later.")


class WaitingOn(Answer):
    """What a job waits for."""

    kind: str = Field(
        description="earlier_job, dependency, start_time, back_off, limit, backend (it is at "
        "work, or out of reach), draining_backend, host_down, no_worker, approval.",
        examples=["earlier_job"],
    )
    detail: str = Field(description="The same in words.")
    job: int | None = None
    lane: str | None = None
    until: datetime | None = None
    since: datetime | None = Field(
        default=None, description="Since when a backend is out of reach."
    )
    host: str | None = None


class Progress(Answer):
    """How far a running job has come."""

    done: int
    total: int
    unit: str = Field(examples=["bytes"])
    message: str | None = None


class Step(Answer):
    """A line of the job's journal: what was about to be done, written before it was."""

    name: str
    state: str = Field(description="intended or done.")
    at: datetime
    detail: dict[str, Any] | None = None


class Attempt(Answer):
    """How an attempt ended that did not end the job well."""

    attempt: int
    outcome: str = Field(
        description="failed, retried, canceled, lost, handed_back, limited or outage."
    )
    ended_at: datetime
    error: JobError | None = None


class Job(Answer):
    """One action on one target."""

    id: int = Field(examples=[17])
    action: str = Field(examples=["volume.create"])
    backend: str = Field(examples=["fast"])
    volume: str | None = Field(default=None, examples=["vm1"])
    snapshot: str | None = None
    policy: str | None = None
    host: str | None = None
    params: dict[str, Any] = Field(examples=[{"size_bytes": 10737418240}])
    state: JobState
    waiting_on: WaitingOn | None = Field(default=None, description="Why it does not run yet.")
    priority: int = 0
    attempt: int = Field(description="Attempts begun.")
    max_attempts: int
    progress: Progress | None = None
    steps: list[Step] = Field(default_factory=list)
    attempts: list[Attempt] = Field(default_factory=list)
    result: dict[str, Any] | None = None
    error: JobError | None = None
    submitted_by: str = Field(description="The name of the token.")
    account: str | None = Field(
        default=None, description="For whose quota it counts: a project, or the name of a token."
    )
    reason: str | None = None
    batch_id: int | None = None
    ref: str | None = None
    retry_of: int | None = Field(default=None, description="The job this repeats.")
    volume_id: str | None = Field(default=None, description="The very volume that is meant.")
    depends_on: list[int] = Field(default_factory=list)
    cancel_requested: bool = False
    run_at: datetime | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    worker: str | None = None


class Batch(Answer):
    """Jobs that were accepted together."""

    id: int
    state: JobState = Field(description="running; then succeeded if every job did, else failed.")
    total: int
    succeeded: int
    failed: int
    canceled: int
    unfinished: int
    submitted_by: str
    reason: str | None = None
    created_at: datetime
    finished_at: datetime | None = None
    job_ids: list[int] | None = Field(
        default=None, description="Told when the batch is accepted, in the order of submission."
    )


class PlannedJob(Answer):
    """What one job would do."""

    action: str
    backend: str
    volume: str | None = None
    snapshot: str | None = None
    policy: str | None = None
    host: str | None = None
    ref: str | None = None
    params: dict[str, Any]
    would: str = Field(description="In words.")
    notes: list[str] = Field(description="What it would delete besides, or not copy.")
    waits_for: list[str] = Field(description="What it would wait for.")


class Plan(Answer):
    """What a submission would do. Nothing was changed."""

    jobs: list[PlannedJob]


class Backend(Answer):
    """A configured storage system."""

    name: str
    driver: str
    state: BackendState
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
    promised_bytes: int = Field(description="Sum of the sizes of its volumes.")
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
    opening: str | None = Field(default=None, description="shared, exclusive, or null.")
    attached_at: datetime


class Volume(Answer):
    """A volume as the inventory has it."""

    id: str
    backend: str
    name: str
    state: VolumeState
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
    state: SnapshotState
    size_bytes: int
    used_bytes: int
    created_at: datetime


class Policy(Answer):
    """Which clients may mount the volumes that have it."""

    id: str
    backend: str
    name: str
    state: PolicyState
    rules: list[str] = Field(description="In their order; none: nobody is admitted.")
    volumes: int = Field(description="How many volumes have it.")
    jobs: list[int] = Field(default_factory=list, description="Unfinished jobs that change it.")
    created_at: datetime
    changed_at: datetime


class Event(Answer):
    """One line of history."""

    number: int | None = Field(description="Grows without gaps; null until it is numbered.")
    at: datetime
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


class EventPage(Answer):
    """Events in their order."""

    items: list[Event]
    next_after: int = Field(description="Send as `after` to go on from here.")
    epoch: int = Field(description="Send with it: changes where the database is restored.")


class Token(Answer):
    """A token, without its secret."""

    id: str
    name: str
    role: Role
    project: str | None = Field(
        default=None,
        description="For whose quota counts what is made with it; null: its own name's.",
    )
    created_at: datetime
    expires_at: datetime | None = None


class NewToken(Token):
    """A token that was just made."""

    token: str = Field(description="The token itself. It is not shown again.")


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
    kind: FindingKind
    state: FindingState
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
    keep: Keep | None = Field(description="Which of its snapshots are kept; null: all.")
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

    last_jobs: dict[JobState, int] = Field(description="How many of them are in which state.")
    failed: list[FailedJob] = Field(description="Up to 20 of those that failed or were canceled.")


class ScheduleRun(Answer):
    """A run that somebody asked for."""

    due_at: datetime
    job_ids: list[int]
    result: RunResult | None = Field(description="Null: the scheduler does it within seconds.")


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

    kind: Literal["volume", "job"]
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


class Queue(Answer):
    """The queue as a whole."""

    accepting: bool = Field(description="Whether new jobs are taken.")
    unfinished: dict[Literal["waiting", "queued", "running"], int]


class Archived(Answer):
    """What will be archived."""

    jobs: int = Field(description="Jobs that leave the database for a file within a minute.")


class Ready(Answer):
    """Whether the parts the service needs are there."""

    database: str
    broker: str


class ActionDescription(Answer):
    """An action, as declared."""

    name: str
    summary: str
    role: Role
    capability: str | None
    destructive: bool
    params: dict[str, Any] = Field(description="JSON schema of its parameters.")


#: The model that tells each kind of thing one can wait for.
MODELS: dict[str, type[Answer]] = {"job": Job, "batch": Batch}


def render(model: type[Answer], view: Mapping[str, Any]) -> bytes:
    """The JSON that tells a view."""
    return model.model_validate(view).model_dump_json().encode()
