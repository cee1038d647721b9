"""The host that a job is about."""

from __future__ import annotations

from orchestrator.domain.errors import HostUnavailable
from workers.execution.work import Work


def host(work: Work) -> str:
    assert work.intent.host is not None  # noqa: S101 - the request model requires it
    return work.intent.host


def refuse_elsewhere(work: Work) -> None:
    """Refuse to touch devices of a host that this is not."""
    if work.claim.queue.startswith("host.") and host(work) != work.host:
        raise HostUnavailable(f"this worker runs on {work.host}, not on {host(work)}")
