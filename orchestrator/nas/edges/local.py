"""What gateways on a database of their own have in common: all that is read, and locks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from sqlalchemy import RowMapping

from orchestrator.actions.requests import parse_request
from orchestrator.domain.actors import Actor
from orchestrator.domain.states import VolumeState
from orchestrator.inventory import backends
from orchestrator.jobs.submission import Submission
from orchestrator.nas.gateways import Request
from orchestrator.resources.policy import views as policies
from orchestrator.resources.volume import locks
from orchestrator.resources.volume import views as volumes
from orchestrator.store.transaction import Transaction

#: The most items that a list has.
_ALL = 1_000_000
#: The states of volumes that are listed.
_SEEN = [VolumeState.AVAILABLE, VolumeState.ERROR]


class Local(ABC):
    """A `orchestrator.nas.gateways.Gateway` but for ``run`` and ``close``.

    Its methods return what `_read` and `_write` do: an answer, or an awaitable of it.
    """

    def __init__(self, backend: str, actor: Actor) -> None:
        self._backend = backend
        self._actor = actor

    @abstractmethod
    def _read(self, work: Callable[[Transaction], Any]) -> Any:
        """Run a reading function on the database."""

    @abstractmethod
    def _write(self, work: Callable[[Transaction], Any]) -> Any:
        """Run a changing function in one transaction."""

    def _submission(self, requests: Any) -> Submission:
        """These jobs on the backend, accepted together."""
        asked: list[Request] = [{**request, "backend": self._backend} for request in requests]
        return Submission(
            requests=[parse_request(request) for request in asked],
            actor=self._actor,
            batch=len(asked) > 1,
        )

    def driver(self) -> Any:
        return self._read(lambda transaction: self._row(transaction)["driver"])

    def capabilities(self) -> Any:
        return self._read(
            lambda transaction: frozenset(self._row(transaction)["capabilities"] or ())
        )

    def _row(self, transaction: Transaction) -> RowMapping:
        return backends.backend_row(transaction, self._backend)

    def volumes(self, after: str | None = None, limit: int | None = None) -> Any:
        return self._read(
            lambda transaction: volumes.list_volumes(
                transaction,
                self._backend,
                states=_SEEN,
                prefix=None,
                after=after,
                limit=limit or _ALL,
            )
        )

    def volume(self, name: str) -> Any:
        return self._read(lambda transaction: volumes.volume_view(transaction, self._backend, name))

    def volume_at(self, path: str) -> Any:
        return self._read(lambda transaction: volumes.volume_at(transaction, self._backend, path))

    def snapshots(self, volume: str) -> Any:
        return self._read(
            lambda transaction: volumes.list_snapshots(
                transaction, self._backend, volume, after=None, limit=_ALL
            )
        )

    def snapshot(self, volume: str, name: str) -> Any:
        return self._read(
            lambda transaction: volumes.snapshot_view(transaction, self._backend, volume, name)
        )

    def policies(self) -> Any:
        return self._read(
            lambda transaction: policies.list_policies(
                transaction, self._backend, after=None, limit=_ALL
            )
        )

    def policy(self, name: str) -> Any:
        return self._read(
            lambda transaction: policies.policy_view(transaction, self._backend, name)
        )

    def take_lock(self, volume: str, host: str) -> Any:
        return self._write(
            lambda transaction: locks.take(
                transaction, self._backend, volume, host, self._actor, reason=None, seconds=None
            )
        )

    def release_lock(self, volume: str, host: str) -> Any:
        return self._write(
            lambda transaction: locks.release(
                transaction, self._backend, volume, host, self._actor, force=False, reason=None
            )
        )
