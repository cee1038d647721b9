"""Drain a backend, or let it take work again."""

from __future__ import annotations

from orchestrator.actions.backend.drain import DRAIN, RESUME
from orchestrator.domain.states import BackendState
from orchestrator.resources.changes import set_backend
from workers.execution.handler import Handler
from workers.execution.work import Done, Work


def drain(work: Work) -> Done:
    """Start nothing more on the backend."""
    return _backend_state(work, BackendState.DRAINING)


def resume(work: Work) -> Done:
    """Let the backend take work again."""
    return _backend_state(work, BackendState.ENABLED)


def _backend_state(work: Work, state: BackendState) -> Done:
    return Done(
        result={"state": state},
        changes=[set_backend(work.claim.backend_id, state=state)],
        after={"state": state},
    )


HANDLERS = (
    Handler(DRAIN, drain),
    Handler(RESUME, resume),
)
