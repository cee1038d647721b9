"""``volume``: list and show volumes, and a command for each action on one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli import options
from orchestrator.cli.connection import connect, whole
from orchestrator.cli.groups import group
from orchestrator.cli.listing import show_list
from orchestrator.cli.output import (
    Columns,
    params,
    print_details,
    print_json,
    print_table,
    size,
    when,
)
from orchestrator.cli.verbs import add_actions
from orchestrator.domain.errors import InvalidInput

app = group()

_VOLUMES: Columns = {
    "backend": lambda volume: volume["backend"],
    "name": lambda volume: volume["name"],
    "size": lambda volume: size(volume["size_bytes"]),
    "used": lambda volume: size(volume["used_bytes"]),
    "state": lambda volume: volume["state"],
    "attached to": lambda volume: [a["host"] for a in volume["attachments"]],
    "locked by": lambda volume: volume["lock"] and volume["lock"]["owner"],
    "unfinished jobs": lambda volume: volume["jobs"],
}


@app.callback()
def volumes() -> None:
    """Volumes: what there is, and what can be done with it."""


@app.command("list")
def list_volumes(
    backend: options.BackendIfAny = None,
    state: options.State = None,
    prefix: Annotated[
        str | None, typer.Option("--prefix", help="Only names that begin with this.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="The most volumes to show; needs --backend."),
    ] = None,
    cursor: options.Cursor = None,
    as_json: options.Json = False,
) -> None:
    """List the volumes of a backend, or of all of them, by name."""
    with connect() as client:
        if backend is None:
            if limit is not None or cursor is not None:
                raise InvalidInput("--limit and --cursor need --backend", field="backend")
            found: dict[str, Any] = whole(
                volume
                for one in client.backends()
                for volume in client.volumes(one["name"], state=state or (), prefix=prefix)
            )
        else:
            listing = client.volumes(backend, state=state or (), prefix=prefix)
            if limit is not None or cursor is not None:
                show_list(listing, _VOLUMES, limit=limit or 100, cursor=cursor, as_json=as_json)
                return
            found = whole(listing)
    if as_json:
        print_json(found)
    else:
        print_table(found["items"], _VOLUMES)


@app.command()
def show(
    volume: Annotated[str, typer.Argument(metavar="VOLUME", help="Name of the volume.")],
    backend: options.Backend,
    as_json: options.Json = False,
) -> None:
    """Show a volume."""
    with connect() as client:
        found: Any = client.volume.get(backend, volume)
    if as_json:
        print_json(found)
        return
    lock = found["lock"]
    print_details(
        {
            "volume": f"{found['backend']}/{found['name']}",
            "id": found["id"],
            "state": found["state"],
            "detail": found["detail"],
            "size": size(found["size_bytes"]),
            "requested": size(found["requested_bytes"]),
            "used": size(found["used_bytes"]),
            "metadata": found["metadata"],
            "settings": params(found["settings"]),
            "export policy": found["policy"],
            "mounted from": found["address"],
            "parent": found["parent_volume_id"],
            "snapshot of it": found["parent_snapshot"],
            "locked by": lock and lock["owner"],
            "lock expires": lock and when(lock["expires_at"]),
            "attached to": [_attached(attachment) for attachment in found["attachments"]],
            "unfinished jobs": found["jobs"],
            "created": when(found["created_at"]),
            "changed": when(found["changed_at"]),
        }
    )


def _attached(attachment: Any) -> str:
    if not (attachment["device"] or attachment["uris"] or attachment["boot_id"]):
        return f"{attachment['host']} (perhaps: how its attach ended is not known yet)"
    opening = f", open {attachment['opening']}" if attachment["opening"] else ""
    mode = ", read-only" if attachment["read_only"] else ""
    return f"{attachment['host']} ({attachment['device'] or 'no device'}{mode}{opening})"


add_actions(app, "volume")
