"""Waiting for jobs and batches: progress for people, an exit status for scripts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer

from orchestrator.cli.failures import INTERRUPTED, say
from orchestrator.cli.output import print_json
from orchestrator.client import DocumentClient
from orchestrator.client.waiting import ended
from orchestrator.domain.errors import EXIT_DONE, EXIT_JOB_FAILED, EXIT_STILL_RUNNING, Problem


def wait_for_job(
    client: DocumentClient, job: int, timeout: float, *, as_json: bool = False, known: Any = None
) -> Any:
    """The job once it has ended, or as it is after ``timeout`` seconds.

    Interrupted, it exits; ``as_json`` with the job as it is by then, or as it was ``known``.
    """
    again = f"orchestrator job wait {job}"
    leaving = _leaving_it(f"job {job}", again, lambda: client.job(job), known, as_json=as_json)
    with leaving, _progress(_of_job) as seen:
        return client.wait(job, timeout=timeout, seen=seen)


def wait_for_batch(
    client: DocumentClient, batch: int, timeout: float, *, as_json: bool = False, known: Any = None
) -> Any:
    """The same for a batch, which has ended once all its jobs have."""
    again = f"orchestrator job wait --batch {batch}"

    def look() -> Any:
        return {**(known or {}), **client.read_batch(batch)}

    leaving = _leaving_it(f"batch {batch}", again, look, known, as_json=as_json)
    with leaving, _progress(_of_batch) as seen:
        return client.wait_batch(batch, timeout=timeout, seen=seen)


def exit_as_job(job: Any) -> None:
    """Say what has not gone well, and exit with the status that a waited-for job has."""
    raise typer.Exit(_status(job, f"job {job['id']}", f"orchestrator job wait {job['id']}"))


def exit_as_batch(batch: Any) -> None:
    """The same for a batch."""
    id_ = batch["id"]
    raise typer.Exit(_status(batch, f"batch {id_}", f"orchestrator job wait --batch {id_}"))


def _status(found: Any, what: str, again: str) -> int:
    if not ended(found):
        say(f"{what} is still {found['state']}{_why(found)} and goes on; wait again with: {again}")
        return EXIT_STILL_RUNNING
    if found["state"] == "succeeded":
        return EXIT_DONE
    if error := found.get("error"):
        say(f"{what} {found['state']}: {error['detail']} ({error['code']})")
    elif "total" in found:
        say(
            f"{what} failed: of {found['total']} jobs, {found['failed']} failed and "
            f"{found['canceled']} were canceled; see: orchestrator job list --batch "
            f"{found['id']} --state failed,canceled"
        )
    else:
        say(f"{what} {found['state']}")
    return EXIT_JOB_FAILED


def _why(found: Any) -> str:
    waiting_on = found.get("waiting_on")
    return f" ({waiting_on['detail']})" if waiting_on else ""


@contextmanager
def submitting() -> Iterator[None]:
    """When interrupted before there is an answer, say that the work may be under way."""
    try:
        yield
    except KeyboardInterrupt:
        say(
            "\ninterrupted before the service answered, which may have accepted it: see "
            "'orchestrator job list'; with --idempotency-key it can be sent again"
        )
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _leaving_it(
    what: str, again: str, look: Callable[[], Any], known: Any, *, as_json: bool
) -> Iterator[None]:
    """When interrupted, say that the work goes on without us, and print what is known of it."""
    try:
        yield
    except KeyboardInterrupt:
        say(f"\n{what} goes on; wait for it again with: {again}")
        if as_json:
            with suppress(Problem, KeyboardInterrupt):
                known = look()
            if known is not None:
                print_json(known)
        raise typer.Exit(INTERRUPTED) from None


Describe = Callable[[Any], tuple[str, float, float | None]]


@contextmanager
def _progress(describe: Describe) -> Iterator[Callable[[Any], None] | None]:
    """What to call with each look at the thing, to show it; None where nobody looks on."""
    if not sys.stderr.isatty():
        yield None
        return
    # Only people see it, and importing it would slow every command.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.text import Text

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task("", total=None)

        def seen(found: Any) -> None:
            words, done, total = describe(found)
            description = Text(words).markup
            progress.update(task, description=description, completed=done, total=total)

        yield seen


def _of_job(job: Any) -> tuple[str, float, float | None]:
    words = f"job {job['id']} {job['state']}"
    if job["waiting_on"]:
        return f"{words}: {job['waiting_on']['detail']}", 0, None
    progress = job["progress"]
    if not progress:
        return words, 0, None
    message = progress["message"] or job["action"]
    return f"{words}: {message}", progress["done"], progress["total"] or None


def _of_batch(batch: Any) -> tuple[str, float, float | None]:
    done = batch["total"] - batch["unfinished"]
    bad = batch["failed"] + batch["canceled"]
    failed = f", {bad} failed or canceled" if bad else ""
    return f"batch {batch['id']}: {done} of {batch['total']} jobs{failed}", done, batch["total"]
