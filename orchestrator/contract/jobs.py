"""What the service answers about jobs and batches."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self, TypeVar

from pydantic import ConfigDict, Field, create_model

from orchestrator.contract.answers import Answer, Open, OpenText
from orchestrator.domain.errors import Canceled, WrongState, problem_for
from orchestrator.domain.states import Ending, JobState, StepState, WaitingKind
from orchestrator.domain.targets import KINDS

A = TypeVar("A", bound=Answer)


def naming_targets(answer: type[A]) -> type[A]:
    """The same with a field for each kind of target that it does not declare."""
    others: Any = {kind: (str | None, None) for kind in KINDS if kind not in answer.model_fields}
    if not others:
        return answer
    return create_model(
        answer.__name__,
        __base__=answer,
        __module__=answer.__module__,
        __doc__=answer.__doc__,
        **others,
    )


class JobError(Answer):
    """Why a job or an attempt did not succeed."""

    model_config = ConfigDict(extra="allow")

    code: str = Field(examples=["no_space"])
    detail: str = Field(description="What happened and what to do.")
    retryable: bool = Field(description="Whether the same thing may work later.")


class WaitingOn(Answer):
    """What a job waits for."""

    kind: OpenText[WaitingKind] = Field(
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
    state: OpenText[StepState] = Field(description="intended or done.")
    at: datetime
    detail: dict[str, Any] | None = None


class Attempt(Answer):
    """How an attempt ended that did not end the job well."""

    attempt: int
    outcome: OpenText[Ending] = Field(
        description="failed, retried, canceled, lost, handed_back, limited or outage."
    )
    ended_at: datetime
    error: JobError | None = None


@naming_targets
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
    state: Open[JobState]
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

    @property
    def ended(self) -> bool:
        """Whether it is over: succeeded, failed or canceled."""
        return self.finished_at is not None

    def raise_for_state(self) -> Self:
        """The job itself, if it has succeeded.

        Raises the `Problem` for which it failed, `Canceled` if it was canceled, and
        `WrongState` if it has not ended. Its id is the fact ``job``.
        """
        if self.state == JobState.SUCCEEDED:
            return self
        if not self.ended:
            waits = "" if self.waiting_on is None else f": {self.waiting_on.detail}"
            raise WrongState(f"job {self.id} has not ended, it is {self.state}{waits}", job=self.id)
        if self.error is None:
            raise Canceled(f"job {self.id} ({self.action}) was canceled", job=self.id)
        facts = {**(self.error.model_extra or {}), "job": self.id}
        problem = problem_for(self.error.code)(self.error.detail, **facts)
        # A newer service may have codes that this version does not know.
        problem.code = self.error.code  # type: ignore[misc]
        raise problem


class Batch(Answer):
    """Jobs that were accepted together."""

    id: int
    state: Open[JobState] = Field(
        description="running; then succeeded if every job did, else failed."
    )
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

    @property
    def ended(self) -> bool:
        """Whether all its jobs are over."""
        return self.finished_at is not None


@naming_targets
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


class Archived(Answer):
    """What will be archived."""

    jobs: int = Field(description="Jobs that leave the database for a file within a minute.")
