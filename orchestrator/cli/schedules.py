"""``schedule``: what is done again and again, made, looked at, run and removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from orchestrator.cli import options
from orchestrator.cli.completion import action_names
from orchestrator.cli.connection import connect
from orchestrator.cli.groups import group
from orchestrator.cli.listing import show_list
from orchestrator.cli.output import (
    Columns,
    params,
    print_details,
    print_json,
    text,
    when,
)
from orchestrator.domain.errors import InvalidInput

app = group()

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the schedule.")]

_SCHEDULES: Columns = {
    "name": lambda schedule: schedule["name"],
    "cron (UTC)": lambda schedule: schedule["cron"],
    "action": lambda schedule: schedule["action"],
    "target": lambda schedule: _target(schedule),
    "keep": lambda schedule: _kept(schedule),
    "next (UTC)": lambda schedule: when(schedule["next_at"]) or "disabled",
    "last (UTC)": lambda schedule: when(schedule["last_run_at"]),
    "result": lambda schedule: _came_of(schedule["last_result"]),
}


@app.callback()
def schedules() -> None:
    """Schedules: snapshots with retention, checks, exports, once a period by cron (UTC)."""


@app.command()
def create(
    name: Name,
    cron: Annotated[
        str,
        typer.Option(
            "--cron", help="Minute, hour, day of the month, month, day of the week: '0 * * * *'."
        ),
    ],
    action: Annotated[
        str,
        typer.Option(
            "--action",
            help="snapshot.create, volume.verify, backend.refresh, events.export …",
            autocompletion=action_names,
        ),
    ],
    words: options.KeyValues = None,
    backend: options.BackendIfAny = None,
    volume: Annotated[
        list[str] | None,
        typer.Option("--volume", help="Pattern of names, such as 'vm*'; repeatable."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="KEEP",
            help="How many of its snapshots to keep: last=3,hourly=24,daily=7,weekly=4.",
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="What it is for.")] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Create it disabled.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a schedule of this name.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Create a schedule."""
    from orchestrator.cli.key_values import read_words  # brings the declarations along

    with connect() as client:
        made = client.put_schedule(
            name,
            cron,
            action,
            backend=backend,
            volumes=volume or None,
            params=read_words(action, words or ()),
            keep=None if keep is None else _keep(keep),
            enabled=not disabled,
            reason=reason,
            replace=replace,
        )
    _show(made, as_json=as_json)


@app.command("list")
def list_schedules(
    limit: options.Limit = 1000, cursor: options.Cursor = None, as_json: options.Json = False
) -> None:
    """List schedules by name."""
    with connect() as client:
        listed = client.schedules()
        show_list(listed, _SCHEDULES, limit=limit, cursor=cursor, as_json=as_json)


@app.command()
def show(name: Name, as_json: options.Json = False) -> None:
    """Show a schedule: its next run, and the result of its last run."""
    with connect() as client:
        found = client.schedule(name)
    _show(found, as_json=as_json)


@app.command()
def enable(name: Name, as_json: options.Json = False) -> None:
    """Enable a schedule."""
    with connect() as client:
        found = client.enable_schedule(name)
    _show(found, as_json=as_json)


@app.command()
def disable(name: Name, as_json: options.Json = False) -> None:
    """Disable a schedule; runs that it misses are not made up."""
    with connect() as client:
        found = client.enable_schedule(name, False)
    _show(found, as_json=as_json)


@app.command()
def run(
    name: Name, idempotency_key: options.IdempotencyKey = None, as_json: options.Json = False
) -> None:
    """Run a schedule now, enabled or not; its next regular run does not change."""
    with connect() as client:
        told: Any = client.run_schedule(name, idempotency_key=idempotency_key)
    if as_json:
        print_json(told)
        return
    print_details(
        {
            "run for": when(told["due_at"]),
            "jobs": told["job_ids"],
            "result": _came_of(told["result"]) or "the scheduler does it within seconds",
        }
    )
    _refusals(told["result"])


@app.command()
def remove(name: Name, as_json: options.Json = False) -> None:
    """Remove a schedule; its jobs and the snapshots that it made stay."""
    with connect() as client:
        client.remove_schedule(name)
    if as_json:
        print_json({"name": name, "removed": True})
    else:
        print(f"schedule {name} is removed")


def _keep(written: str) -> dict[str, int]:
    """``hourly=24,daily=7`` as what it says. Raises `InvalidInput`."""
    counts: dict[str, int] = {}
    for word in written.split(","):
        kind, _, count = word.strip().partition("=")
        if not (count.isascii() and count.isdigit()) or kind in counts:
            raise InvalidInput(
                f"keep: {word!r} is not understood: write last=3,hourly=24,daily=7,weekly=4, those "
                "that are wanted",
                field="keep",
            )
        counts[kind] = int(count)
    return counts


def _target(schedule: Mapping[str, Any]) -> str | None:
    if schedule["backend"] is None:
        return None
    return "/".join([schedule["backend"], ",".join(schedule["volumes"] or [])]).rstrip("/")


def _kept(schedule: Mapping[str, Any]) -> dict[str, int] | None:
    counts: Mapping[str, int] | None = schedule["keep"]
    return None if counts is None else {kind: count for kind, count in counts.items() if count}


def _came_of(result: Mapping[str, Any] | None) -> str | None:
    """The result of a run in a few words."""
    if result is None:
        return None
    if result["error"] is not None:
        return f"failed: {result['error']}"
    if result["events"] is not None:
        return f"{result['events']} events, up to {result['last']}"
    told = f"{result['submitted']} submitted"
    for count, what in (
        (result["deletions"], "deletions"),
        (result["refused_in_all"], "refused"),
    ):
        told += f", {count} {what}" if count else ""
    return told


def _refusals(result: Mapping[str, Any] | None) -> None:
    for one in (result or {}).get("refused") or ():
        print(text(f"  refused {_object(one)}: {one['detail']} ({one['code']})"))


def _object(one: Mapping[str, Any]) -> str:
    return str(one["volume"] or "") + (f"@{one['snapshot']}" if one["snapshot"] else "")


def _show(found: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    result = found["last_result"]
    print_details(
        {
            "schedule": found["name"],
            "cron (UTC)": found["cron"],
            "action": found["action"],
            "target": _target(found),
            "params": params(found["params"]),
            "keep": _kept(found),
            "reason": found["reason"],
            "made by": found["created_by"],
            "next": when(found["next_at"]) or "disabled",
            "last": when(found["last_run_at"]),
            "last run for": when(result["due_at"]) if result else None,
            "result": _came_of(result),
            "file": result["file"] if result else None,
            "jobs": found["last_jobs"],
        }
    )
    _refusals(result)
    for job in found["failed"]:
        why = (job["error"] or {}).get("detail")
        print(text(f"  job {job['id']} {job['action']} {_object(job)}: {why}"))
