"""Backends, volumes, snapshots, attachments and locks: what there is, read from the database."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

from orchestrator.actions.requests import Reason
from orchestrator.api.requesting import (
    BackendInPath,
    Cursor,
    HostInPath,
    Limit,
    NoBody,
    Operator,
    Reader,
    ServiceHere,
    SnapshotInPath,
    VolumeInPath,
    cursor_for,
    position_of,
)
from orchestrator.api.routes.collections import add_collection
from orchestrator.api.routes.jobs import states_of
from orchestrator.asgi.reading import ExactRoute
from orchestrator.contract.answers import Page
from orchestrator.contract.inventory import Attachment, Backend, Lock, Snapshot, Volume
from orchestrator.domain.errors import NotFound
from orchestrator.domain.exact import Exact
from orchestrator.domain.names import HostName, JunctionPath
from orchestrator.domain.states import VolumeState
from orchestrator.domain.targets import KINDS
from orchestrator.inventory import backends
from orchestrator.resources.registry import RESOURCES
from orchestrator.resources.resource import Listed
from orchestrator.resources.volume import locks
from orchestrator.resources.volume import views as volumes

router = APIRouter(prefix="/v1/backends", tags=["inventory"], route_class=ExactRoute)


@router.get("", response_model=Page[Backend])
def list_backends(service: ServiceHere, _actor: Reader) -> dict[str, Any]:
    """List the configured backends."""
    return {"items": service.read(backends.backend_views), "cursor": None}


@router.get("/{backend}", response_model=Backend)
def show_backend(service: ServiceHere, _actor: Reader, backend: BackendInPath) -> dict[str, Any]:
    """Read a backend."""
    return service.read(lambda transaction: backends.backend_views(transaction, backend)[0])


@router.get("/{backend}/volumes", response_model=Page[Volume])
def list_volumes(
    service: ServiceHere,
    _actor: Reader,
    backend: BackendInPath,
    state: Annotated[
        str | None, Query(description="One or more states, separated by commas.", max_length=200)
    ] = None,
    prefix: Annotated[
        str | None,
        Query(
            max_length=255,
            pattern=r"^[A-Za-z0-9._:/+-]*$",
            description="Only names that begin with this.",
        ),
    ] = None,
    junction_path: Annotated[
        JunctionPath | None, Query(description="The one that is mounted there.")
    ] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """List a backend's volumes by name."""
    after = position_of(cursor, str)
    states = states_of(state, VolumeState)
    found = service.read(
        lambda transaction: volumes.list_volumes(
            transaction,
            backend,
            states=states,
            prefix=prefix,
            junction_path=junction_path,
            after=after,
            limit=limit,
        )
    )
    more = cursor_for(found[-1]["name"]) if len(found) == limit else None
    return {"items": found, "cursor": more}


@router.get("/{backend}/volumes/{volume}", response_model=Volume)
def show_volume(
    service: ServiceHere, _actor: Reader, backend: BackendInPath, volume: VolumeInPath
) -> dict[str, Any]:
    """Read a volume."""
    return service.read(lambda transaction: volumes.volume_view(transaction, backend, volume))


@router.get("/{backend}/volumes/{volume}/snapshots", response_model=Page[Snapshot])
def list_snapshots(
    service: ServiceHere,
    _actor: Reader,
    backend: BackendInPath,
    volume: VolumeInPath,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> dict[str, Any]:
    """List a volume's snapshots, oldest first."""
    after = position_of(cursor, str)
    found = service.read(
        lambda transaction: volumes.list_snapshots(
            transaction, backend, volume, after=after, limit=limit
        )
    )
    more = cursor_for(found[-1]["id"]) if len(found) == limit else None
    return {"items": found, "cursor": more}


@router.get("/{backend}/volumes/{volume}/snapshots/{snapshot}", response_model=Snapshot)
def show_snapshot(
    service: ServiceHere,
    _actor: Reader,
    backend: BackendInPath,
    volume: VolumeInPath,
    snapshot: SnapshotInPath,
) -> dict[str, Any]:
    """Read a snapshot."""
    return service.read(
        lambda transaction: volumes.snapshot_view(transaction, backend, volume, snapshot)
    )


@router.get("/{backend}/volumes/{volume}/attachments", response_model=Page[Attachment])
def list_attachments(
    service: ServiceHere, _actor: Reader, backend: BackendInPath, volume: VolumeInPath
) -> dict[str, Any]:
    """List the hosts a volume is attached to."""
    found = service.read(lambda transaction: volumes.list_attachments(transaction, backend, volume))
    return {"items": found, "cursor": None}


@router.get("/{backend}/volumes/{volume}/attachments/{host}", response_model=Attachment)
def show_attachment(
    service: ServiceHere,
    _actor: Reader,
    backend: BackendInPath,
    volume: VolumeInPath,
    host: HostInPath,
) -> dict[str, Any]:
    """Read how a volume is attached to a host."""
    return service.read(
        lambda transaction: volumes.attachment_view(transaction, backend, volume, host)
    )


for kind in KINDS.values():
    if isinstance(resource := RESOURCES[kind.name], Listed):
        add_collection(router, kind, resource)


class LockRequest(Exact):
    """Who takes the lock, and for how long."""

    owner: HostName = Field(description="The host that shall hold it.")
    seconds: Annotated[float, Field(gt=0, le=10 * 365 * 86400)] | None = Field(
        default=None, description="It expires after this; renew it by taking it again."
    )
    reason: Reason | None = None


@router.get("/{backend}/volumes/{volume}/lock", response_model=Lock)
def show_lock(
    service: ServiceHere, _actor: Reader, backend: BackendInPath, volume: VolumeInPath
) -> dict[str, Any]:
    """Read the lock on a volume; 404 if there is none."""
    found = service.read(lambda transaction: volumes.volume_view(transaction, backend, volume))
    if found["lock"] is None:
        raise NotFound(f"nobody holds a lock on volume {volume!r}", field="volume")
    lock: dict[str, Any] = found["lock"]
    return lock


@router.put("/{backend}/volumes/{volume}/lock", response_model=Lock)
def take_lock(
    service: ServiceHere,
    actor: Operator,
    backend: BackendInPath,
    volume: VolumeInPath,
    wanted: LockRequest,
) -> dict[str, Any]:
    """Take or renew the lock on a volume, at once."""
    return service.write(
        lambda transaction: locks.take(
            transaction,
            backend,
            volume,
            wanted.owner,
            actor,
            reason=wanted.reason,
            seconds=wanted.seconds,
        )
    )


@router.delete("/{backend}/volumes/{volume}/lock", status_code=204, dependencies=[NoBody])
def release_lock(
    service: ServiceHere,
    actor: Operator,
    backend: BackendInPath,
    volume: VolumeInPath,
    owner: Annotated[HostName | None, Query(description="The host that holds it.")] = None,
    force: Annotated[
        bool, Query(description="Break it, whoever holds it: administrators only.")
    ] = False,
    reason: Annotated[Reason | None, Query(description="Needed with `force`.")] = None,
) -> Response:
    """Release the lock on a volume, at once; nothing happens if there is none."""
    service.write(
        lambda transaction: locks.release(
            transaction, backend, volume, owner, actor, force=force, reason=reason
        )
    )
    return Response(status_code=204)
