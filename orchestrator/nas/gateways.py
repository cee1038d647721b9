"""Gateways: how the contract reaches an engine, for callers that block.

A gateway is about one backend. ``run`` submits jobs, waits for their end, and raises the
`Problem` for which the first of them was refused or failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, Protocol

from orchestrator.client import DocumentClient
from orchestrator.domain.errors import Problem, Unavailable, UnknownVolume, problem_for

View = Mapping[str, Any]
Request = Mapping[str, Any]


class Gateway(Protocol):
    """What the operations of `orchestrator.nas.contract` call; or the same, to be awaited."""

    def driver(self) -> str:
        """The name of the backend's driver."""

    def capabilities(self) -> frozenset[str]:
        """What the backend can do."""

    def run(self, requests: Sequence[Request]) -> Sequence[View]:
        """Do these jobs, all of them or none accepted; they, ended. ``backend`` is added."""

    def volumes(self, after: str | None = None, limit: int | None = None) -> Sequence[View]:
        """Volumes by name: all, or those after a name, ``limit`` of them at most."""

    def volume(self, name: str) -> View:
        """A volume by name. Raises `UnknownVolume`."""

    def volume_at(self, path: str) -> View:
        """A volume by junction path. Raises `UnknownVolume`."""

    def snapshots(self, volume: str) -> Sequence[View]:
        """A volume's snapshots, oldest first."""

    def snapshot(self, volume: str, name: str) -> View:
        """A snapshot. Raises `UnknownSnapshot`."""

    def policies(self) -> Sequence[View]:
        """Every export policy."""

    def policy(self, name: str) -> View:
        """An export policy. Raises `UnknownPolicy`."""

    def take_lock(self, volume: str, host: str) -> None:
        """Take a volume's lock. Raises `Locked`."""

    def release_lock(self, volume: str, host: str) -> None:
        """Release a volume's lock. Raises `Locked`."""

    def close(self) -> None:
        """Let go of everything."""


def ended_well(jobs: Sequence[View], seconds: float) -> Sequence[View]:
    """The jobs themselves, if all have succeeded. Raises the `Problem` of the first that has not.

    ``seconds``: how long was waited for them.
    """
    for job in jobs:
        if job["finished_at"] is None:
            raise Unavailable(
                f"job {job['id']} ({job['action']}) has not ended after {seconds:g} s; it goes on: "
                f"look with 'orchestrator job show {job['id']}'",
                job=job["id"],
            )
        if job["error"] is not None and job["state"] != "succeeded":
            error = dict(job["error"])
            raise problem_for(error.pop("code"))(error.pop("detail"))
        if job["state"] != "succeeded":
            raise Problem(f"job {job['id']} ({job['action']}) was canceled")
    return list(jobs)


class Remote:
    """A gateway over HTTP, to a service that runs anywhere."""

    def __init__(
        self, backend: str, url: str | None, token: str | None, *, wait_seconds: float
    ) -> None:
        self._backend = backend
        self._client = DocumentClient(url, token)
        self._wait = wait_seconds

    def driver(self) -> str:
        return str(self._client.backend.get(self._backend)["driver"])

    def capabilities(self) -> frozenset[str]:
        return frozenset(self._client.backend.get(self._backend)["capabilities"] or ())

    def run(self, requests: Sequence[Request]) -> Sequence[View]:
        jobs = [{**request, "backend": self._backend} for request in requests]
        if len(jobs) == 1:
            fields = dict(jobs[0])
            job = self._client.submit(fields.pop("action"), wait=self._wait, **fields)
            return ended_well([job], self._wait)
        batch = self._client.batch(jobs, wait=self._wait)
        found = [self._client.job(job_id) for job_id in batch["job_ids"] or ()]
        return ended_well(found, self._wait)

    def volumes(self, after: str | None = None, limit: int | None = None) -> Sequence[View]:
        states = ["available", "error"]
        found = sorted(self._client.volumes(self._backend, state=states), key=itemgetter("name"))
        return [view for view in found if after is None or view["name"] > after][:limit]

    def volume(self, name: str) -> View:
        view: View = self._client.volume.get(self._backend, name)
        return view

    def volume_at(self, path: str) -> View:
        found: View
        for found in self._client.volumes(self._backend, junction_path=path):
            return found
        raise UnknownVolume(f"there is no volume at {path}", field="volume")

    def snapshots(self, volume: str) -> Sequence[View]:
        return list(self._client.snapshots(self._backend, volume))

    def snapshot(self, volume: str, name: str) -> View:
        view: View = self._client.snapshot.get(self._backend, volume, name)
        return view

    def policies(self) -> Sequence[View]:
        return list(self._client.policies(self._backend))

    def policy(self, name: str) -> View:
        view: View = self._client.policy.get(self._backend, name)
        return view

    def take_lock(self, volume: str, host: str) -> None:
        self._client.take_lock(self._backend, volume, host)

    def release_lock(self, volume: str, host: str) -> None:
        self._client.release_lock(self._backend, volume, host)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
