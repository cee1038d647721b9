"""``backend``: list and show backends, and a command for each action on one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli import options
from orchestrator.cli.completion import backend_names
from orchestrator.cli.connection import connect, whole
from orchestrator.cli.groups import group
from orchestrator.cli.output import Columns, print_details, print_json, print_table, size, when
from orchestrator.cli.verbs import add_actions

app = group()

#: What of backends is shown.
BACKENDS: Columns = {
    "name": lambda backend: backend["name"],
    "driver": lambda backend: backend["driver"],
    "state": lambda backend: backend["state"],
    "volumes": lambda backend: backend["volumes"],
    "total": lambda backend: size(backend["total_bytes"]),
    "free": lambda backend: size(backend["free_bytes"]),
    "promised": lambda backend: size(backend["promised_bytes"]),
    "unavailable since": lambda backend: when(backend["unavailable_since"]),
    "remark": lambda backend: backend["error"] and backend["error"]["detail"],
}


@app.callback()
def backends() -> None:
    """Backends: the configured storage systems."""


@app.command("list")
def list_backends(as_json: options.Json = False) -> None:
    """List the backends."""
    with connect() as client:
        found = whole(client.backends())
    if as_json:
        print_json(found)
    else:
        print_table(found["items"], BACKENDS)


@app.command()
def show(
    backend: Annotated[
        str,
        typer.Argument(
            metavar="BACKEND", help="Name of the backend.", autocompletion=backend_names
        ),
    ],
    as_json: options.Json = False,
) -> None:
    """Show a backend."""
    with connect() as client:
        found: Any = client.backend.get(backend)
    if as_json:
        print_json(found)
        return
    error = found["error"]
    print_details(
        {
            "backend": found["name"],
            "driver": found["driver"],
            "state": found["state"],
            "error": error and f"{error['detail']} ({error['code']})",
            "capabilities": found["capabilities"],
            "parameters": list(found["parameters"] or ()),
            "hosts": found["hosts"],
            "volumes": found["volumes"],
            "total": size(found["total_bytes"]),
            "free": size(found["free_bytes"]),
            "promised": size(found["promised_bytes"]),
            "overcommit": found["overcommit"],
            "grain": size(found["grain_bytes"]),
            "unavailable since": when(found["unavailable_since"]),
            "refreshed": when(found["refreshed_at"]),
        }
    )


add_actions(app, "backend")
