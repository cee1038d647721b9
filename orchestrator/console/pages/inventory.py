"""Backends and volumes: their lists, over all backends or of one, and their pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from orchestrator.api.requesting import (
    BackendInPath,
    Cursor,
    VolumeInPath,
    cursor_for,
    position_of,
)
from orchestrator.api.routes.jobs import states_of
from orchestrator.asgi.reading import ExactRoute
from orchestrator.console.visits import PAGE, Here
from orchestrator.domain.errors import InvalidInput, UnknownBackend, UnknownVolume
from orchestrator.domain.names import BackendName
from orchestrator.domain.states import FindingState, VolumeState
from orchestrator.findings.recording import list_findings
from orchestrator.history.events import read_newest
from orchestrator.inventory.backends import backend_id, backend_views, configured_names
from orchestrator.jobs.views import list_jobs
from orchestrator.resources.volume import views as volumes
from orchestrator.store.transaction import Transaction

router = APIRouter(route_class=ExactRoute)

Rows = Sequence[Mapping[str, Any]]
#: Reads rows of a backend, in the order of their names: those above a name, and how many at most.
Reader = Callable[[str, str | None, int], Rows]

_JOBS, _EVENTS, _SNAPSHOTS = 10, 20, 50


def over_backends(
    transaction: Transaction, backend: str | None, cursor: str | None, read: Reader
) -> dict[str, Any]:
    """One page of what backends have, by backend and name: of one of them, or of all.

    Raises `UnknownBackend`, and `InvalidInput` for a cursor that is none.
    """
    names = sorted(configured_names(transaction))
    if backend is not None:
        backend_id(transaction, backend)
    first, name = _place(cursor)
    found: list[Mapping[str, Any]] = []
    for one in [backend] if backend is not None else names:
        if first is not None and one < first:
            continue
        found += read(one, name if one == first else None, PAGE - len(found))
        if len(found) == PAGE:
            break
    last = found[-1] if len(found) == PAGE else None
    return {
        "items": found,
        "cursor": None if last is None else cursor_for(f"{last['backend']} {last['name']}"),
        "backends": names,
    }


def _place(cursor: str | None) -> tuple[str | None, str | None]:
    """A backend, and the name in it above which the page begins."""
    if (position := position_of(cursor, str)) is None:
        return None, None
    backend, between, name = position.partition(" ")
    if not between:
        raise InvalidInput("the cursor is not one this service gave out", field="cursor")
    return backend, name


@router.get("/backends")
def list_backends(visit: Here) -> Response:
    """List the backends."""
    return visit.page("backends.html", lambda t: {"backends": backend_views(t)})


@router.get("/backends/{backend}")
def show_backend(visit: Here, backend: BackendInPath) -> Response:
    """One backend, with the latest jobs and the open findings about it."""
    about = {"backend": backend}

    def jobs(transaction: Transaction) -> Rows:
        return list_jobs(transaction, backend=backend, filters={}, limit=_JOBS)

    def read(transaction: Transaction) -> dict[str, Any]:
        open_ = {"backend": backend, "state": FindingState.OPEN}
        return {
            "backend": backend_views(transaction, backend)[0],
            "jobs": jobs(transaction),
            "findings": list_findings(transaction, open_, before=None, limit=_JOBS),
        }

    try:
        return visit.page("backend.html", read)
    except UnknownBackend as problem:
        return visit.gone(
            problem,
            f"Backend {backend}",
            lambda t: {"jobs": jobs(t), "events": read_newest(t, _EVENTS, about)[1][::-1]},
        )


@router.get("/volumes")
def list_volumes(
    visit: Here,
    backend: BackendName | None = None,
    state: Annotated[str | None, Query(max_length=200)] = None,
    prefix: Annotated[str | None, Query(max_length=255, pattern=r"^[A-Za-z0-9._:/+-]*$")] = None,
    cursor: Cursor = None,
) -> Response:
    """List volumes by backend and name."""
    states = states_of(state, VolumeState)

    def read(transaction: Transaction) -> dict[str, Any]:
        def of(one: str, after: str | None, limit: int) -> Rows:
            return volumes.list_volumes(
                transaction, one, states=states, prefix=prefix, after=after, limit=limit
            )

        shown = [one.value for one in VolumeState if one is not VolumeState.REMOVED]
        return {**over_backends(transaction, backend, cursor, of), "states": shown}

    return visit.page("volumes.html", read)


@router.get("/backends/{backend}/volumes/{volume}")
def show_volume(
    visit: Here, backend: BackendInPath, volume: VolumeInPath, cursor: Cursor = None
) -> Response:
    """One volume: what it is, has and is used by; its jobs, and its history, if it is gone, too.

    ``cursor`` is of its snapshots.
    """
    about = {"backend": backend, "volume": volume}
    after = position_of(cursor, str)

    def history(transaction: Transaction) -> dict[str, Any]:
        return {
            "jobs": list_jobs(
                transaction, backend=backend, filters={"volume": volume}, limit=_JOBS
            ),
            "events": read_newest(transaction, _EVENTS, about)[1][::-1],
        }

    def read(transaction: Transaction) -> dict[str, Any]:
        view = volumes.volume_view(transaction, backend, volume)
        snapshots = volumes.list_snapshots(
            transaction, backend, volume, after=after, limit=_SNAPSHOTS
        )
        return {
            **history(transaction),
            "volume": view,
            "snapshots": snapshots,
            "cursor": cursor_for(snapshots[-1]["id"]) if len(snapshots) == _SNAPSHOTS else None,
        }

    try:
        return visit.page("volume.html", read)
    except (UnknownBackend, UnknownVolume) as problem:
        return visit.gone(problem, f"Volume {volume} on {backend}", history)
