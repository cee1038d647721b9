"""``event``: the history, as far as it goes or as it happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from orchestrator.cli import options
from orchestrator.cli.connection import connect
from orchestrator.cli.failures import say
from orchestrator.cli.groups import group
from orchestrator.cli.output import Columns, print_json, print_json_line, print_table, text, when
from orchestrator.domain.targets import COLUMNS

app = group()

AfterNumber = Annotated[
    int | None,
    typer.Option(
        "--after",
        min=0,
        help="Events with numbers above this; 0 starts with the oldest still there.",
    ),
]
Epoch = Annotated[
    int | None,
    typer.Option("--epoch", min=0, help="The epoch that --after belongs to, from the JSON."),
]
Kind = Annotated[str | None, typer.Option("--kind", help="A kind, such as volume.grow.")]
JobIfAny = Annotated[int | None, typer.Option("--job", min=1, help="Id of a job.")]


def _what(event: Mapping[str, Any]) -> str | None:
    if not event["backend"]:
        return None
    volume = f"/{event['volume']}" if event["volume"] else ""
    snapshot = f"@{event['snapshot']}" if event["snapshot"] else ""
    others = {one["kind"]: one["name"] for one in event.get("objects") or ()}
    named = {"policy": event["policy"], **others}
    more = [f" {kind} {name}" for kind, name in named.items() if name and kind not in COLUMNS]
    return f"{event['backend']}{volume}{snapshot}{''.join(more)}"


#: What of events is shown.
EVENTS: Columns = {
    "number": lambda event: event["number"],
    "at (UTC)": lambda event: when(event["at"]),
    "kind": lambda event: event["kind"],
    "object": _what,
    "job": lambda event: event["job_id"],
    "by": lambda event: event["actor"],
    "reason": lambda event: event["reason"],
}


@app.callback()
def events() -> None:
    """Events: numbered lines of history, without gaps."""


@app.command("list")
def list_events(
    after: AfterNumber = None,
    epoch: Epoch = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="The most events.")] = 100,
    kind: Kind = None,
    backend: options.BackendIfAny = None,
    volume: options.VolumeIfAny = None,
    job: JobIfAny = None,
    as_json: options.Json = False,
) -> None:
    """List the newest events, or those after a number, in order.

    The JSON has 'next_after' and 'epoch' for --after and --epoch.
    """
    filters: dict[str, Any] = {"kind": kind, "backend": backend, "volume": volume}
    with connect() as client:
        if after is None:
            page = client.event_page(last=limit, epoch=epoch, job=job, **filters)
        else:
            page = client.event_page(after or None, epoch=epoch, limit=limit, job=job, **filters)
    if as_json:
        print_json(page)
        return
    print_table(page["items"], EVENTS)
    if len(page["items"]) < limit:
        return
    if after is None:
        say(f"the newest {limit}; --limit shows more, --after 0 begins with the oldest")
    else:
        say(f"go on with --after {page['next_after']}")


@app.command()
def follow(
    after: AfterNumber = None,
    epoch: Epoch = None,
    kind: Kind = None,
    backend: options.BackendIfAny = None,
    volume: options.VolumeIfAny = None,
    job: JobIfAny = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document a line, one for each event.")
    ] = False,
) -> None:
    """Print events as they happen, starting now or after a number, until interrupted.

    None is missed or printed twice.
    """
    filters: dict[str, Any] = {"kind": kind, "backend": backend, "volume": volume}
    with connect() as client:
        if after is None and epoch is None:
            newest = client.event_page(last=1)
            after, epoch = newest["next_after"], newest["epoch"]
        for event in client.follow_events(after or None, epoch=epoch, job=job, **filters):
            if as_json:
                print_json_line(event)
            else:
                print("  ".join(text(tell(event)) for tell in EVENTS.values()), flush=True)
