"""The overview: what runs, waits and fails, how full the backends are, who works, what happened."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from orchestrator.api.routes.status import status_view
from orchestrator.asgi.reading import ExactRoute
from orchestrator.console.visits import Here
from orchestrator.domain.states import JobState
from orchestrator.history.events import read_newest
from orchestrator.jobs.views import ended_lately, list_jobs
from orchestrator.store.transaction import Transaction

router = APIRouter(route_class=ExactRoute)

#: Minutes whose ended jobs are shown.
_MINUTES = 30
_JOBS, _EVENTS = 8, 15


@router.get("/")
def overview(visit: Here) -> Response:
    """Everything at a glance."""

    def read(transaction: Transaction) -> dict[str, Any]:
        ended = ended_lately(transaction, _MINUTES)
        waiting = [JobState.WAITING, JobState.QUEUED]
        return {
            "status": status_view(transaction, visit.service, visit.session.actor),
            "ended": ended,
            "most": max(1, *(sum(one.values()) for one in ended.minutes)),
            "waiting": list_jobs(transaction, states=waiting, filters={}, limit=_JOBS),
            "failed": list_jobs(transaction, states=[JobState.FAILED], filters={}, limit=_JOBS),
            "events": read_newest(transaction, _EVENTS, {})[1][::-1],
        }

    return visit.page("overview.html", read)
