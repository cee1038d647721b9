"""A room of the client for each kind of resource: ``client.volume``, ``client.snapshot`` …"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orchestrator.client.jobs import JobMethods
from orchestrator.client.kinds import A, Kind
from orchestrator.client.steps import Request, Steps

if TYPE_CHECKING:
    from orchestrator.contract.jobs import Job

C = TypeVar("C", covariant=True)


class Room(Generic[C]):
    """Methods that share a client, blocking or awaited as it is."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def _run(self, steps: Steps[Any]) -> Any:
        return self._client._run(steps)

    def _get(self, kind: Kind[A], path: str) -> Steps[A]:
        """Read what is at a path."""
        answer = yield Request(method="GET", path=path, repeatable=True)
        found: A = self._client._read(kind, answer.body)
        return found

    def _submit(
        self,
        action: str,
        target: Mapping[str, str | None],
        params: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Steps[Job]:
        """Do as `JobMethods.submit` does.

        A parameter that is None or False, as all that are optional are unless they are given, is
        left out: an earlier service may not know it.
        """
        given = {name: it for name, it in params.items() if it is not None and it is not False}
        submit = JobMethods.submit.__wrapped__
        job: Steps[Job] = submit(self._client, action, params=given, **target, **options)
        return job
