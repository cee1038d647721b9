"""``submit`` and ``plan``: one job from the command line."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli import failures, options, tables
from orchestrator.cli.connection import connect
from orchestrator.cli.key_values import read_words
from orchestrator.cli.output import print_json
from orchestrator.cli.waiting import exit_as_job, submitting, wait_for_job
from orchestrator.domain.errors import InvalidInput
from orchestrator.domain.sizes import doubt
from orchestrator.domain.targets import KINDS


def naming_targets(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each kind of target, where it takes ``**targets``."""
    *parameters, _ = signature(command, eval_str=True).parameters.values()
    host = next(place for place, one in enumerate(parameters) if one.name == "host")
    parameters[host:host] = [
        Parameter(
            kind.name,
            Parameter.POSITIONAL_OR_KEYWORD,
            annotation=Annotated[str | None, options.naming(kind)],
            default=None,
        )
        for kind in KINDS.values()
    ]
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


@naming_targets
def submit(
    action: options.ActionName,
    values: options.KeyValues = None,
    backend: options.BackendIfAny = None,
    host: options.HostIfAny = None,
    wait: options.Wait = False,
    timeout: options.Timeout = 60.0,
    idempotency_key: options.IdempotencyKey = None,
    priority: options.Priority = None,
    run_at: options.RunAt = None,
    depends_on: options.DependsOn = None,
    reason: options.Reason = None,
    max_attempts: options.MaxAttempts = None,
    after: options.AfterWhat = None,
    approval: options.Approval = False,
    as_json: options.Json = False,
    **targets: Any,
) -> None:
    """Submit a job.

    orchestrator submit volume.create --backend fast --volume vm1 size=10G --wait

    Prints the job as accepted, or with --wait as it ended.
    """
    params = read_words(action, values or ())
    with connect() as client:
        # Accepted first and waited for then, so that an interrupted wait can name the job.
        with submitting():
            job: Any = client.submit(
                action,
                backend,
                **targets,
                host=host,
                params=params,
                idempotency_key=idempotency_key,
                reason=reason,
                priority=priority,
                run_at=run_at,
                depends_on=depends_on or (),
                max_attempts=max_attempts,
                after=after.value if after else None,
                approval=approval,
            )
        if doubtful := doubt(job["params"].get("size_bytes")):
            failures.warn([doubtful])
        if wait:
            job = wait_for_job(client, job["id"], timeout, as_json=as_json, known=job)
    tables.show_job(job, as_json=as_json)
    if wait:
        exit_as_job(job)


@naming_targets
def plan(
    action: Annotated[
        str | None, typer.Argument(metavar="[ACTION]", help="As with submit.")
    ] = None,
    values: options.KeyValues = None,
    backend: options.BackendIfAny = None,
    host: options.HostIfAny = None,
    priority: options.Priority = None,
    run_at: options.RunAt = None,
    depends_on: options.DependsOn = None,
    reason: options.Reason = None,
    max_attempts: options.MaxAttempts = None,
    after: options.AfterWhat = None,
    approval: options.Approval = False,
    file: Annotated[
        Path | None, typer.Option("--file", help="A file as for 'batch', instead of an action.")
    ] = None,
    as_json: options.Json = False,
    **targets: Any,
) -> None:
    """Show what a job or a batch would do.

    All checks are made, nothing is changed.
    """
    if (action is None) == (file is None):
        raise InvalidInput("give an action, or --file with a batch: one of the two")
    with connect() as client:
        if action is None:
            from orchestrator.cli.batch_files import read_batch

            batch = read_batch(file or Path("-"))
            with batch.naming_places():
                planned = client.plan_batch(batch.jobs)
        else:
            planned = client.plan(
                action,
                backend,
                **targets,
                host=host,
                params=read_words(action, values or ()),
                reason=reason,
                priority=priority,
                run_at=run_at,
                depends_on=depends_on or (),
                max_attempts=max_attempts,
                after=after.value if after else None,
                approval=approval,
            )
    if as_json:
        print_json(planned)
    else:
        tables.show_plan(planned)
