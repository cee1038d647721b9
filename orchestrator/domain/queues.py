"""Queues: the names under which wake-ups travel, and who listens to them."""

from __future__ import annotations

from orchestrator.domain.drivers import Reach
from orchestrator.domain.installed import DRIVERS

#: The queue of work that any worker can do.
CONTROL_QUEUE = "control"
#: What a claimed group may cost in all; a slow job fills it alone.
GROUP_BUDGET = 1000


def queue_for(
    driver: str,
    backend: str,
    host: str | None,
    *,
    on_host: bool,
    leaves_files: bool,
    administrative: bool,
) -> str:
    """The name of the queue a job travels on: any worker's, a backend's or a host's."""
    if administrative:
        return CONTROL_QUEUE
    if on_host and host is not None and (leaves_files or DRIVERS[driver].reach is Reach.HOST):
        return host_queue(host)
    return backend_queue(backend)


def backend_queue(backend: str) -> str:
    """The queue of the workers that serve a backend."""
    return f"backend.{backend}"


def host_queue(host: str) -> str:
    """The queue of the workers on a host."""
    return f"host.{host}"
