"""Jobs: the list with its filters, one job with its timeline, and what may be done to it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from orchestrator.actions.registry import ACTIONS
from orchestrator.actions.requests import no_such_action
from orchestrator.api.filters import check_backend
from orchestrator.api.requesting import (
    Admin,
    Cursor,
    IdInPath,
    Operator,
    cursor_for,
    position_of,
)
from orchestrator.api.routes import jobs as routes
from orchestrator.asgi.reading import ExactRoute
from orchestrator.console.visits import PAGE, FormHere, Here
from orchestrator.domain.errors import Gone, UnknownAction
from orchestrator.domain.names import (
    MAX_ID,
    NAME_OF_TOKENS,
    BackendName,
    HostName,
    SnapshotName,
    VolumeName,
)
from orchestrator.domain.states import Ending, JobState, StepState
from orchestrator.history.events import of_job
from orchestrator.inventory.backends import configured_names
from orchestrator.jobs.views import job_view, list_jobs
from orchestrator.store.transaction import Transaction

router = APIRouter(prefix="/jobs", route_class=ExactRoute)

#: What one may choose of states, by how it is called.
STATES = {
    "waiting,queued,running": "unfinished",
    "waiting,queued": "waiting or queued",
    **{state.value: state.value for state in JobState},
    "failed,canceled": "failed or canceled",
}
#: The most events of a job that its page shows.
_EVENTS = 100


@router.get("")
def list_(
    visit: Here,
    state: Annotated[str | None, Query(max_length=200)] = None,
    action: Annotated[str | None, Query(max_length=40)] = None,
    backend: BackendName | None = None,
    volume: VolumeName | None = None,
    snapshot: SnapshotName | None = None,
    host: HostName | None = None,
    submitted_by: Annotated[str | None, Query(max_length=64, pattern=NAME_OF_TOKENS)] = None,
    batch_id: Annotated[int | None, Query(ge=1, le=MAX_ID)] = None,
    cursor: Cursor = None,
) -> Response:
    """List jobs, newest first."""
    before = position_of(cursor, int)
    states = routes.states_of(state, JobState)
    if action is not None and action not in ACTIONS:
        raise UnknownAction(no_such_action(action), field="action")
    wanted: dict[str, Any] = {
        "action": action,
        "volume": volume,
        "snapshot": snapshot,
        "host": host,
        "submitted_by": submitted_by,
        "batch_id": batch_id,
    }
    filters = {name: value for name, value in wanted.items() if value is not None}

    def read(transaction: Transaction) -> dict[str, Any]:
        check_backend(transaction, backend)
        found = list_jobs(
            transaction,
            states=states,
            backend=backend,
            filters=filters,
            before=before,
            limit=PAGE,
        )
        return {
            "jobs": found,
            "cursor": cursor_for(found[-1]["id"]) if len(found) == PAGE else None,
            "states": STATES,
            "actions": sorted(ACTIONS),
            "backends": configured_names(transaction),
        }

    return visit.page("jobs.html", read)


@dataclass(frozen=True)
class Moment:
    """One entry of a job's timeline."""

    at: datetime
    tone: str
    text: str
    more: Mapping[str, Any] | None = None


@router.get("/{job_id}")
def show(visit: Here, job_id: IdInPath) -> Response:
    """One job: how far it is, why it waits, what it did."""

    def read(transaction: Transaction) -> dict[str, Any]:
        job = job_view(transaction, job_id)
        return {
            "job": job,
            "action": ACTIONS.get(job["action"]),
            "timeline": timeline(job),
            "events": of_job(transaction, job_id, (0, 0), _EVENTS),
            "key": secrets.token_hex(16),
        }

    try:
        return visit.page("job.html", read, about={"job": job_id})
    except Gone as problem:
        return visit.gone(
            problem,
            f"Job {job_id}",
            lambda t: {"jobs": [], "events": of_job(t, job_id, (0, 0), _EVENTS)},
        )


_STEP_TONES = {StepState.DONE: "good", StepState.INTENDED: "busy"}
_END_TONES = {JobState.SUCCEEDED: "good", JobState.FAILED: "bad", JobState.CANCELED: "idle"}
_ATTEMPT_TONES = {
    Ending.FAILED: "bad",
    Ending.LOST: "bad",
    Ending.RETRY: "warn",
    Ending.OUTAGE: "warn",
    Ending.LIMITED: "warn",
}


def timeline(job: Mapping[str, Any]) -> list[Moment]:
    """What a job did and when: its steps, its attempts, and its beginning and end between them."""
    moments = [Moment(job["created_at"], "idle", f"submitted by {job['submitted_by']}")]
    if job["started_at"] is not None:
        moments.append(Moment(job["started_at"], "busy", "started"))
    for step in job["steps"]:
        tone = _STEP_TONES.get(step["state"], "idle")
        moments.append(
            Moment(step["at"], tone, f"step {step['name']} {step['state']}", step["detail"])
        )
    for attempt in job["attempts"]:
        tone = _ATTEMPT_TONES.get(attempt["outcome"], "idle")
        text = f"attempt {attempt['attempt']} {attempt['outcome']}".replace("_", " ")
        moments.append(Moment(attempt["ended_at"], tone, text, attempt["error"]))
    if job["finished_at"] is not None:
        moments.append(Moment(job["finished_at"], _END_TONES[job["state"]], job["state"]))
    return sorted(moments, key=lambda moment: moment.at)


@router.post("/{job_id}/cancel")
def cancel(visit: Here, actor: Operator, job_id: IdInPath, _sent: FormHere) -> Response:
    """Cancel a job."""
    routes.cancel(visit.service, actor, job_id)
    return visit.go("jobs", job_id)


@router.post("/{job_id}/retry")
async def retry(visit: Here, actor: Operator, job_id: IdInPath, sent: FormHere) -> Response:
    """Submit a job again, and go on to the new one."""
    answer = await routes.retry(visit.service, actor, job_id, 0.0, key=sent.key, reason=sent.reason)
    return visit.go("jobs", json.loads(bytes(answer.body))["id"])


@router.post("/{job_id}/approve")
def approve(visit: Here, actor: Admin, job_id: IdInPath, sent: FormHere) -> Response:
    """Let a job begin that waits for that."""
    routes.approve(visit.service, actor, job_id, sent.reason)
    return visit.go("jobs", job_id)
