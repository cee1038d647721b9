"""``job``: list, show, wait for, cancel, retry and reorder jobs."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from orchestrator.cli import options, tables
from orchestrator.cli.connection import connect
from orchestrator.cli.failures import say
from orchestrator.cli.groups import group
from orchestrator.cli.listing import show_list
from orchestrator.cli.output import print_json, text
from orchestrator.cli.submit import naming_targets
from orchestrator.cli.waiting import (
    exit_as_batch,
    exit_as_job,
    submitting,
    wait_for_batch,
    wait_for_job,
)
from orchestrator.client import DocumentClient
from orchestrator.domain.errors import InvalidInput

app = group()

JobId = Annotated[int, typer.Argument(metavar="JOB", min=1, help="Id of the job.")]
JobIdIfAny = Annotated[int | None, typer.Argument(metavar="[JOB]", min=1, help="Id of the job.")]
BatchIfAny = Annotated[
    int | None, typer.Option("--batch", min=1, help="Id of a batch, instead of a job.")
]


@app.callback()
def jobs() -> None:
    """Jobs: what was asked for, what became of it, and why it waits."""


@app.command("list")
@naming_targets
def list_jobs(
    state: options.State = None,
    action: Annotated[str | None, typer.Option("--action", help="An action's name.")] = None,
    backend: options.BackendIfAny = None,
    host: options.HostIfAny = None,
    submitted_by: Annotated[
        str | None, typer.Option("--submitted-by", help="Name of a token.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Id of a batch.")] = None,
    limit: options.Limit = 100,
    cursor: options.Cursor = None,
    as_json: options.Json = False,
    **targets: Any,
) -> None:
    """List jobs, newest first."""
    with connect() as client:
        listed = client.jobs(
            state=state or (),
            action=action,
            backend=backend,
            **targets,
            host=host,
            submitted_by=submitted_by,
            batch=batch,
        )
        show_list(listed, tables.JOBS, limit=limit, cursor=cursor, as_json=as_json)


@app.command()
def show(job: JobId, as_json: options.Json = False) -> None:
    """Show a job with its attempts and steps."""
    with connect() as client:
        tables.show_job(client.job(job), as_json=as_json)


@app.command()
def wait(
    job: JobIdIfAny = None,
    batch: BatchIfAny = None,
    timeout: options.Timeout = 60.0,
    as_json: options.Json = False,
) -> None:
    """Wait for the end of a job or a batch.

    The exit status says how it ended, or is 6 if the time ran out.
    """
    with connect() as client:
        if _one_of(job, batch):
            found = wait_for_job(client, job or 0, timeout, as_json=as_json)
            tables.show_job(found, as_json=as_json)
            exit_as_job(found)
        else:
            found = wait_for_batch(client, batch or 0, timeout, as_json=as_json)
            tables.show_batch(found, as_json=as_json)
            exit_as_batch(found)


@app.command()
def watch(job: JobId, as_json: options.Json = False) -> None:
    """Print each change of a job until it has ended.

    However long that takes; the exit status says how it ended.
    """
    with connect() as client:
        found = _watched(client, job)
    tables.show_job(found, as_json=as_json)
    exit_as_job(found)


def _watched(client: DocumentClient, job: int) -> Any:
    told: list[str] = []

    def seen(found: Any) -> None:
        steps = [f"step {text(step['name'])} {step['state']}" for step in found["steps"]]
        remark = tables.remark(found)
        for line in (*steps, f"{found['state']}{f': {remark}' if remark else ''}"):
            if line not in told:
                told.append(line)
                say(f"job {job} {line}")

    try:
        return client.wait(job, seen=seen)
    except KeyboardInterrupt:
        say(f"\njob {job} goes on; watch it again with: orchestrator job watch {job}")
        raise


@app.command()
def cancel(job: JobIdIfAny = None, batch: BatchIfAny = None, as_json: options.Json = False) -> None:
    """Cancel a job, or what has not ended of a batch.

    One that has not begun is canceled at once, a running one at its next safe point.
    """
    with connect() as client:
        if _one_of(job, batch):
            tables.show_job(client.cancel(job or 0), as_json=as_json)
        else:
            tables.show_batch(client.cancel_batch(batch or 0), as_json=as_json)


@app.command()
def approve(job: JobId, reason: options.Reason = None, as_json: options.Json = False) -> None:
    """Approve a job that waits for it."""
    with connect() as client:
        tables.show_job(client.approve(job, reason=reason), as_json=as_json)


@app.command()
def retry(
    job: JobId,
    wait: options.Wait = False,
    timeout: options.Timeout = 60.0,
    idempotency_key: options.IdempotencyKey = None,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Submit a failed or canceled job again.

    The new job is checked again, and applies to the same volume as the old one.
    """
    with connect() as client:
        with submitting():
            found: Any = client.retry(job, idempotency_key=idempotency_key, reason=reason)
        if wait:
            found = wait_for_job(client, found["id"], timeout, as_json=as_json, known=found)
    tables.show_job(found, as_json=as_json)
    if wait:
        exit_as_job(found)


# A negative priority looks like an option.
@app.command(context_settings={"ignore_unknown_options": True})
def priority(
    job: JobId,
    priority: Annotated[int, typer.Argument(metavar="PRIORITY", help="-20 is first, 19 last.")],
    as_json: options.Json = False,
) -> None:
    """Change the priority of an unfinished job."""
    with connect() as client:
        tables.show_job(client.set_priority(job, priority), as_json=as_json)


@app.command()
def archive(
    jobs: Annotated[
        list[int] | None, typer.Argument(metavar="[JOB]...", min=1, help="Ids of ended jobs.")
    ] = None,
    ended_before: Annotated[
        str | None,
        typer.Option(
            "--ended-before",
            metavar="TIME",
            help="All that ended before this (RFC 3339), or this long ago: 30d, 12h.",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Move ended jobs out of the database, into a file of the scheduler's archive."""
    with connect() as client:
        found = client.archive_jobs(jobs, ended_before=ended_before and _moment(ended_before))
    if as_json:
        print_json(found)
    else:
        say(f"{found['jobs']} jobs will be archived")


_AGO = re.compile(r"([0-9]{1,6})([mhd])", re.ASCII)
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def _moment(written: str) -> str:
    """A time as the service takes it, from one or from how long ago it was."""
    ago = _AGO.fullmatch(written)
    if ago is None:
        return written
    return (datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})).isoformat()


def _one_of(job: int | None, batch: int | None) -> bool:
    """Whether a job is named, and not a batch."""
    if (job is None) == (batch is None):
        raise InvalidInput("name a job, or a batch with --batch: one of the two")
    return job is not None
