"""A room of the client for each kind of resource: ``client.volume``, ``client.snapshot`` …"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from orchestrator.client.jobs import accepted
from orchestrator.client.kinds import JOB, A, Kind
from orchestrator.client.steps import Call, Steps

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
        answer = yield Call(method="GET", path=path, repeatable=True)
        found: A = self._client._read(kind, answer.body)
        return found

    def _submit(
        self,
        action: str,
        target: Mapping[str, str | None],
        params: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Steps[Job]:
        """Submit a job, and with the option ``wait`` wait for its end.

        What is None or False, as all that is optional is unless it is given, is left out: an
        earlier service may not know it.
        """
        fields = dict(options)
        wait, key = fields.pop("wait", None), fields.pop("idempotency_key", None)
        if isinstance(run_at := fields.get("run_at"), datetime):
            fields["run_at"] = run_at.isoformat()
        request = {"action": action, **_given(target), "params": _given(params), **_given(fields)}
        call = Call(method="POST", path="/v1/jobs", json=request)
        document = yield from accepted(call, "jobs", key, wait)
        job: Job = self._client._read(JOB, document)
        return job


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: it for name, it in values.items() if it is not None and it is not False}
