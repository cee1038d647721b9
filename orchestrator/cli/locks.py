"""``lock``: a host's claim on a volume, shown, taken, renewed, released, broken."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli import options
from orchestrator.cli.connection import connect
from orchestrator.cli.groups import group
from orchestrator.cli.listing import show_list
from orchestrator.cli.output import Columns, print_details, print_json, when
from orchestrator.client import DocumentClient
from orchestrator.domain.errors import Locked, NotFound

app = group()

Volume = Annotated[str, typer.Argument(metavar="VOLUME", help="Name of the volume.")]
Owner = Annotated[str, typer.Option("--owner", help="The host that holds it.")]
Seconds = Annotated[
    float | None, typer.Option("--seconds", help="It expires after this; never, if absent.")
]

_LOCKS: Columns = {
    "backend": lambda lock: lock["backend"],
    "volume": lambda lock: lock["volume"],
    "held by": lambda lock: lock["owner"],
    "reason": lambda lock: lock["reason"],
    "taken by": lambda lock: lock["taken_by"],
    "taken (UTC)": lambda lock: when(lock["taken_at"]),
    "expires (UTC)": lambda lock: when(lock["expires_at"]) or "never",
}


@app.callback()
def locks() -> None:
    """Locks: taken and released at once, never queued behind jobs."""


@app.command("list")
def list_locks(
    backend: options.BackendIfAny = None,
    volume: options.VolumeIfAny = None,
    owner: Annotated[str | None, typer.Option("--owner", help="Those of this host.")] = None,
    limit: options.Limit = 1000,
    cursor: options.Cursor = None,
    as_json: options.Json = False,
) -> None:
    """List the held locks, by backend and volume."""
    with connect() as client:
        listed = client.locks(backend=backend, volume=volume, owner=owner)
        show_list(listed, _LOCKS, limit=limit, cursor=cursor, as_json=as_json)


@app.command()
def show(volume: Volume, backend: options.Backend, as_json: options.Json = False) -> None:
    """Show who holds the lock on a volume; exit status 3 if nobody does."""
    with connect() as client:
        _show(volume, client.lock(backend, volume), as_json=as_json)


@app.command()
def take(
    volume: Volume,
    backend: options.Backend,
    owner: Owner,
    seconds: Seconds = None,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Take the lock on a volume for a host; exit status 4 if another host has it."""
    with connect() as client:
        lock = client.take_lock(backend, volume, owner, seconds=seconds, reason=reason)
    _show(volume, lock, as_json=as_json)


@app.command()
def renew(
    volume: Volume,
    backend: options.Backend,
    owner: Owner,
    seconds: Seconds = None,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Renew the expiry of a lock; exit status 3 if it expired or was broken meanwhile."""
    with connect() as client:
        held = client.lock(backend, volume)
        if held["owner"] != owner:
            raise Locked(
                f"host {held['owner']} holds the lock on volume {volume!r}, not {owner}",
                field="owner",
                lock_owner=held["owner"],
            )
        kept = reason if reason is not None else held["reason"]
        lock = client.take_lock(backend, volume, owner, seconds=seconds, reason=kept)
    _show(volume, lock, as_json=as_json)


@app.command()
def release(
    volume: Volume, backend: options.Backend, owner: Owner, as_json: options.Json = False
) -> None:
    """Release a host's lock; succeeds if there is none."""
    with connect() as client:
        held = _held(client, backend, volume)
        client.release_lock(backend, volume, owner)
    _show_free(backend, volume, held, "released", as_json=as_json)


@app.command("break")
def break_lock(
    volume: Volume,
    backend: options.Backend,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the history.")],
    as_json: options.Json = False,
) -> None:
    """Break the lock on a volume, whoever holds it: for administrators."""
    with connect() as client:
        held = _held(client, backend, volume)
        client.break_lock(backend, volume, reason)
    _show_free(backend, volume, held, "broke", as_json=as_json)


def _show(volume: str, lock: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(lock)
        return
    print_details(
        {
            "volume": volume,
            "held by": lock["owner"],
            "reason": lock["reason"],
            "taken by": lock["taken_by"],
            "taken": when(lock["taken_at"]),
            "expires": when(lock["expires_at"]) or "never",
        }
    )


def _held(client: DocumentClient, backend: str, volume: str) -> Any:
    """The lock on a volume; None if nobody holds one."""
    try:
        return client.lock(backend, volume)
    except NotFound as problem:
        if problem.code != NotFound.code:
            raise  # it is the volume that is not there
        return None


def _show_free(backend: str, volume: str, held: Any, done: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"backend": backend, "volume": volume, "lock": None, "held": held})
    elif held is None:
        print(f"nobody held a lock on {backend}/{volume}: nothing was done")
    else:
        taken = when(held["taken_at"])
        print(f"{done} the lock that {held['owner']} held on {backend}/{volume} since {taken}")
