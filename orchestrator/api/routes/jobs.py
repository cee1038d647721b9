"""Jobs: submit, read, wait, cancel, retry, prioritise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.actions.registry import ACTIONS
from orchestrator.actions.requests import AnyJobRequest, JobId, Moment, Priority, no_such_action
from orchestrator.api.filters import of_backend
from orchestrator.api.keys import once
from orchestrator.api.requesting import (
    MAX_WAIT,
    Admin,
    Cursor,
    IdempotencyKey,
    IdInPath,
    Limit,
    Operator,
    PreferredWait,
    Reader,
    ReasonHeader,
    ServiceHere,
    cursor_for,
    position_of,
)
from orchestrator.api.service import Receipt, Service
from orchestrator.api.submitting import answer, single, told, wait_for
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.answers import Page
from orchestrator.contract.events import Event
from orchestrator.contract.jobs import Archived, Job, Plan
from orchestrator.domain.actors import Actor
from orchestrator.domain.errors import InvalidInput, Problem, UnknownAction
from orchestrator.domain.exact import Exact
from orchestrator.domain.names import (
    MAX_ID,
    NAME_OF_TOKENS,
    BackendName,
    HostName,
)
from orchestrator.domain.states import JobState
from orchestrator.domain.targets import KINDS
from orchestrator.history.events import of_job
from orchestrator.jobs import approvals
from orchestrator.jobs import archive as archiving
from orchestrator.jobs import cancel as canceling
from orchestrator.jobs.retry import retried_before, retry_request
from orchestrator.jobs.submission import Submission
from orchestrator.jobs.views import job_view, list_jobs
from orchestrator.store.transaction import Transaction

T = TypeVar("T", bound=StrEnum)

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=ExactRoute)

PlanOnly = Annotated[bool, Query(description="Tell what would happen, and change nothing.")]
Timeout = Annotated[float, Query(ge=0, le=MAX_WAIT, description="Seconds.")]

#: Documentation of the two successes of everything that submits.
SUBMITTED: dict[int | str, dict[str, Any]] = {
    200: {"model": Job | Plan, "description": "Ended in time, or the plan."},
    202: {"model": Job, "description": "Accepted; `Location` tells where to look."},
}


@router.post("", responses=SUBMITTED, status_code=202, response_model=Job)
async def submit(
    service: ServiceHere,
    actor: Operator,
    request: Annotated[
        AnyJobRequest,
        Body(
            openapi_examples={
                "create": {
                    "value": {
                        "action": "volume.create",
                        "backend": "fast",
                        "volume": "vm1",
                        "params": {"size_bytes": 10737418240},
                    }
                },
                "grow": {
                    "value": {
                        "action": "volume.grow",
                        "backend": "fast",
                        "volume": "vm1",
                        "params": {"size_bytes": 21474836480},
                    }
                },
            }
        ),
    ],
    wait: PreferredWait,
    key: IdempotencyKey = None,
    reason: ReasonHeader = None,
    plan: PlanOnly = False,
) -> Response:
    """Submit a job."""
    submission = single(request, actor, reason=reason, key=key)
    return await answer(service, submission, wait=wait, plan=plan)


def states_of(words: str | None, kind: type[T]) -> list[T]:
    """The states listed in a query. Raises `InvalidInput`."""
    try:
        return [] if words is None else [kind(word) for word in words.split(",")]
    except ValueError:
        raise InvalidInput(
            f"state takes one or more of {', '.join(kind)}, separated by commas", field="state"
        ) from None


def _by_target(read: Callable[..., Any]) -> Callable[..., Any]:
    """The route with a filter for each kind of target, where it takes ``**targets``."""
    *parameters, _ = signature(read, eval_str=True).parameters.values()
    named = [
        Parameter(kind.name, Parameter.KEYWORD_ONLY, annotation=kind.names | None, default=None)
        for kind in KINDS.values()
    ]
    read.__signature__ = Signature([*parameters, *named])  # type: ignore[attr-defined]
    return read


@router.get("", response_model=Page[Job])
@_by_target
def list_(
    service: ServiceHere,
    _actor: Reader,
    state: Annotated[
        str | None, Query(description="One or more states, separated by commas.", max_length=200)
    ] = None,
    action: Annotated[str | None, Query(max_length=40)] = None,
    backend: BackendName | None = None,
    host: HostName | None = None,
    submitted_by: Annotated[str | None, Query(max_length=64, pattern=NAME_OF_TOKENS)] = None,
    batch_id: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
    **targets: str | None,
) -> dict[str, Any]:
    """List jobs, newest first."""
    before = position_of(cursor, int)
    if action is not None and action not in ACTIONS:
        raise UnknownAction(no_such_action(action), field="action")
    filters = {
        "action": action,
        **targets,
        "host": host,
        "submitted_by": submitted_by,
        "batch_id": batch_id,
    }

    states = states_of(state, JobState)
    given = {name: value for name, value in filters.items() if value is not None}
    found = service.read(
        of_backend(
            backend,
            lambda transaction: list_jobs(
                transaction,
                states=states,
                backend=backend,
                filters=given,
                before=before,
                limit=limit,
            ),
        )
    )
    more = cursor_for(found[-1]["id"]) if len(found) == limit else None
    return {"items": found, "cursor": more}


class ToArchive(Exact):
    """Which jobs to archive: those named, or all that ended before a time."""

    jobs: list[JobId] | None = Field(default=None, min_length=1, max_length=1000)
    ended_before: Moment | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> ToArchive:
        if (self.jobs is None) == (self.ended_before is None):
            raise PydanticCustomError("invalid_input", "name either jobs or ended_before")
        return self


@router.post("/archive", status_code=202, response_model=Archived)
def archive(
    service: ServiceHere, actor: Admin, wanted: ToArchive, key: IdempotencyKey = None
) -> dict[str, Any]:
    """Move ended jobs out of the database, into a file of the scheduler's archive."""

    def ask(transaction: Transaction) -> dict[str, Any]:
        if wanted.ended_before is not None:
            return {"jobs": archiving.ask_for_older(transaction, wanted.ended_before)}
        return {"jobs": archiving.ask_for(transaction, wanted.jobs or [])}

    what = ["archive", wanted.model_dump(mode="json")]
    return service.write(
        lambda transaction: once(transaction, actor.name, key, what, lambda: ask(transaction))
    )


@router.get("/{job_id}", response_model=Job)
def show(service: ServiceHere, _actor: Reader, job_id: IdInPath) -> dict[str, Any]:
    """Read a job."""
    return service.read(lambda transaction: job_view(transaction, job_id))


@router.get("/{job_id}/wait", response_model=Job)
async def wait(
    service: ServiceHere, _actor: Reader, job_id: IdInPath, timeout: Timeout = 60.0
) -> Response:
    """Wait for a job's end: 200 with the job as it is once ended, or when the time is over.

    Its `state` tells which of the two it was.
    """
    return await wait_for(service, "job", job_id, timeout)


@router.get("/{job_id}/events", response_model=Page[Event])
def events(
    service: ServiceHere,
    _actor: Reader,
    job_id: IdInPath,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """Read the history of a job."""
    after = _place_of(position_of(cursor, str))

    def read(transaction: Any) -> dict[str, Any]:
        job_view(transaction, job_id)
        found = of_job(transaction, job_id, after, limit)
        last = f"{found[-1].commit_id}.{found[-1].seq}" if len(found) == limit else None
        more = None if last is None else cursor_for(last)
        return {"items": [row._mapping for row in found], "cursor": more}

    return service.read(read)


def _place_of(position: str | None) -> tuple[int, int]:
    """A place in history: a commit, and an event in it. Raises `InvalidInput`."""
    commit, _, seq = (position or "0.0").partition(".")
    try:
        place = int(commit), int(seq)
    except ValueError:
        place = -1, -1
    if not all(0 <= number <= MAX_ID for number in place):
        raise InvalidInput("the cursor is not one this service gave out", field="cursor")
    return place


@router.post("/{job_id}/cancel", status_code=202, response_model=Job)
def cancel(service: ServiceHere, actor: Operator, job_id: IdInPath) -> dict[str, Any]:
    """Cancel a job: at once if it has not begun, else at its next safe point."""
    service.finished(
        service.write(lambda transaction: canceling.cancel(transaction, job_id, actor.name))
    )
    return service.read(lambda transaction: job_view(transaction, job_id))


@router.post("/{job_id}/retry", responses=SUBMITTED, status_code=202, response_model=Job)
async def retry(
    service: ServiceHere,
    actor: Operator,
    job_id: IdInPath,
    wait: PreferredWait,
    key: IdempotencyKey = None,
    reason: ReasonHeader = None,
) -> Response:
    """Submit a failed or canceled job again, as a new job, which is checked again."""
    try:
        request, bound = await asyncio.to_thread(
            service.read, lambda transaction: retry_request(transaction, job_id)
        )
    except Problem:
        # The request may have been accepted before, when the jobs were as it needs them.
        first = await asyncio.to_thread(_retried_before, service, job_id, actor, key)
        if first is None:
            raise
        return await told(service, first, wait)
    submission = Submission(
        requests=[request], actor=actor, reason=reason, idempotency_key=key, bound={0: bound}
    )
    return await answer(service, submission, wait=wait)


def _retried_before(service: Service, job_id: int, actor: Actor, key: str | None) -> Receipt | None:
    def first(transaction: Transaction) -> Receipt | None:
        if key is None or (id_ := retried_before(transaction, job_id, actor.name, key)) is None:
            return None
        return Receipt("job", id_, job_view(transaction, id_), repeated=True)

    return service.read(first)


@router.post("/{job_id}/approve", response_model=Job)
def approve(
    service: ServiceHere, actor: Admin, job_id: IdInPath, reason: ReasonHeader = None
) -> dict[str, Any]:
    """Approve a job that waits for it."""
    service.write(lambda transaction: approvals.approve(transaction, job_id, actor, reason))
    return service.read(lambda transaction: job_view(transaction, job_id))


class JobChange(Exact):
    """What may be changed in a job that has not ended."""

    priority: Priority


@router.patch("/{job_id}", response_model=Job)
def change(
    service: ServiceHere, actor: Operator, job_id: IdInPath, changed: JobChange
) -> dict[str, Any]:
    """Change a job's priority."""
    service.write(
        lambda transaction: canceling.set_priority(
            transaction, job_id, changed.priority, actor.name
        )
    )
    return service.read(lambda transaction: job_view(transaction, job_id))
