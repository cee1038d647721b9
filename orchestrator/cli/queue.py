"""``queue``: whether new jobs are taken, and how many are under way."""

from __future__ import annotations

from typing import Any

from orchestrator.cli import options
from orchestrator.cli.connection import connect
from orchestrator.cli.groups import group
from orchestrator.cli.output import print_details, print_json

app = group()


@app.callback()
def queue() -> None:
    """The queue as a whole: drain it before maintenance, and take jobs again after."""


@app.command()
def show(as_json: options.Json = False) -> None:
    """Show whether new jobs are accepted, and how many have not ended."""
    with connect() as client:
        _tell(client.queue(), as_json)


@app.command()
def drain(reason: options.Reason = None, as_json: options.Json = False) -> None:
    """Accept no new jobs; accepted ones continue until they end."""
    with connect() as client:
        _tell(client.drain_queue(reason=reason), as_json)


@app.command()
def resume(reason: options.Reason = None, as_json: options.Json = False) -> None:
    """Accept new jobs again."""
    with connect() as client:
        _tell(client.resume_queue(reason=reason), as_json)


def _tell(found: Any, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    taken = "taken" if found["accepting"] else "refused: the queue is drained"
    print_details({"new jobs are": taken, **found["unfinished"]})
