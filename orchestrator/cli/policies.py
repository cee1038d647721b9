"""``policy``: list and show export policies, and a command for each action on one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from orchestrator.cli import options
from orchestrator.cli.connection import connect
from orchestrator.cli.groups import group
from orchestrator.cli.listing import show_list
from orchestrator.cli.output import Columns, print_details, print_json, when
from orchestrator.cli.verbs import add_actions

app = group()

_POLICIES: Columns = {
    "backend": lambda policy: policy["backend"],
    "name": lambda policy: policy["name"],
    "rules": lambda policy: policy["rules"],
    "volumes": lambda policy: policy["volumes"],
    "state": lambda policy: policy["state"],
    "unfinished jobs": lambda policy: policy["jobs"],
}


@app.callback()
def policies() -> None:
    """Export policies: which clients may mount volumes."""


@app.command("list")
def list_policies(
    backend: options.Backend,
    limit: options.Limit = 1000,
    cursor: options.Cursor = None,
    as_json: options.Json = False,
) -> None:
    """List the export policies of a backend by name."""
    with connect() as client:
        listed = client.policies(backend)
        show_list(listed, _POLICIES, limit=limit, cursor=cursor, as_json=as_json)


@app.command()
def show(
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="Name of the export policy.")],
    backend: options.Backend,
    as_json: options.Json = False,
) -> None:
    """Show an export policy."""
    with connect() as client:
        found: Any = client.policy.get(backend, policy)
    if as_json:
        print_json(found)
        return
    print_details(
        {
            "policy": f"{found['backend']}/{found['name']}",
            "id": found["id"],
            "state": found["state"],
            "rules": found["rules"] or "none: nobody is admitted",
            "volumes": found["volumes"],
            "unfinished jobs": found["jobs"],
            "created": when(found["created_at"]),
            "changed": when(found["changed_at"]),
        }
    )


add_actions(app, "policy")
