"""Ask the storage which clients hold locks in a volume."""

from __future__ import annotations

from dataclasses import asdict

from orchestrator.actions.volume.client_locks import CLIENT_LOCKS
from workers.backends.base.abilities import CanListClientLocks
from workers.backends.base.driver import driver_that
from workers.execution.handler import Handler
from workers.execution.work import Done, Work


def client_locks(work: Work) -> Done:
    """Ask the storage which clients hold locks in the volume."""
    return Done(
        result={
            "locks": [
                asdict(lock)
                for lock in driver_that(work.driver, CanListClientLocks).client_locks(work.volume)
            ]
        }
    )


HANDLERS = (Handler(CLIENT_LOCKS, client_locks),)
