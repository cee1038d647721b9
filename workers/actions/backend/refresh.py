"""Read a backend's capacity and the use of its volumes."""

from __future__ import annotations

from orchestrator.actions.backend.refresh import REFRESH
from workers.execution.handler import Handler
from workers.execution.refresh import look_at, read_use
from workers.execution.work import Done, Work


def refresh(work: Work) -> Done:
    """Read capacity and use anew."""
    work.check_identity()
    return refreshed(work)


def refreshed(work: Work) -> Done:
    told, change = look_at(work.driver, work.database, work.claim.backend_id)
    found = read_use(work.driver, work.database, work.claim.backend_id, work)
    return Done(result={**told, "volumes_found": found}, changes=[change])


HANDLERS = (Handler(REFRESH, refresh),)
