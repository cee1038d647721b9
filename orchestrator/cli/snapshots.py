"""``snapshot``: list, show, create and delete snapshots."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli import options
from orchestrator.cli.connection import connect
from orchestrator.cli.groups import group
from orchestrator.cli.listing import show_list
from orchestrator.cli.output import Columns, print_details, print_json, size, when
from orchestrator.cli.verbs import add_actions

app = group()

_SNAPSHOTS: Columns = {
    "name": lambda snapshot: snapshot["name"],
    "size": lambda snapshot: size(snapshot["size_bytes"]),
    "used": lambda snapshot: size(snapshot["used_bytes"]),
    "state": lambda snapshot: snapshot["state"],
    "created (UTC)": lambda snapshot: when(snapshot["created_at"]),
}


@app.callback()
def snapshots() -> None:
    """Snapshots: contents of a volume, kept under a name."""


@app.command("list")
def list_snapshots(
    backend: options.Backend,
    volume: options.Volume,
    limit: options.Limit = 1000,
    cursor: options.Cursor = None,
    as_json: options.Json = False,
) -> None:
    """List the snapshots of a volume, oldest first."""
    with connect() as client:
        listed = client.snapshots(backend, volume)
        show_list(listed, _SNAPSHOTS, limit=limit, cursor=cursor, as_json=as_json)


@app.command()
def show(
    snapshot: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Name of the snapshot.")],
    backend: options.Backend,
    volume: options.Volume,
    as_json: options.Json = False,
) -> None:
    """Show a snapshot."""
    with connect() as client:
        found: Any = client.snapshot.get(backend, volume, snapshot)
    if as_json:
        print_json(found)
        return
    print_details(
        {
            "snapshot": f"{found['backend']}/{found['volume']}@{found['name']}",
            "id": found["id"],
            "state": found["state"],
            "size": size(found["size_bytes"]),
            "used": size(found["used_bytes"]),
            "created": when(found["created_at"]),
        }
    )


add_actions(app, "snapshot")
