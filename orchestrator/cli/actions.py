"""``action``: what the service can be asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.cli import options
from orchestrator.cli.connection import connect, whole
from orchestrator.cli.groups import group
from orchestrator.cli.output import Columns, print_json, print_table

app = group()


def _params(action: Mapping[str, Any]) -> list[str]:
    """The parameters, required ones first and without brackets."""
    schema = action["params"]
    required = set(schema.get("required", ()))
    names = sorted(schema.get("properties", ()), key=lambda name: name not in required)
    return [name if name in required else f"[{name}]" for name in names]


_ACTIONS: Columns = {
    "action": lambda action: action["name"],
    "role": lambda action: action["role"],
    "parameters": _params,
    "what it does": lambda action: action["summary"],
}


@app.callback()
def actions() -> None:
    """Actions: what can be submitted."""


@app.command("list")
def list_actions(as_json: options.Json = False) -> None:
    """List the actions the service knows, with their parameters."""
    with connect() as client:
        found = whole(client.actions())
    if as_json:
        print_json(found)
    else:
        print_table(found["items"], _ACTIONS)
