"""``batch``: many jobs from a file, accepted whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli import failures, options, tables
from orchestrator.cli.batch_files import read_batch
from orchestrator.cli.connection import connect
from orchestrator.cli.waiting import exit_as_batch, submitting, wait_for_batch


def batch(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="CSV, JSON or NDJSON, by its ending; - for stdin."),
    ],
    wait: options.Wait = False,
    timeout: options.Timeout = 60.0,
    idempotency_key: options.IdempotencyKey = None,
    reason: options.Reason = None,
    as_json: options.Json = False,
) -> None:
    """Submit the jobs of a file as one batch.

    orchestrator batch fleet.csv --wait

    A CSV file names its columns in the first row: ref, action, backend, volume, snapshot,
    host, depends_on, priority (those needed), then one for each parameter, such as size.
    """
    read = read_batch(file)
    failures.warn(read.doubts())
    with connect() as client:
        with read.naming_places(), submitting():
            found: Any = client.batch(
                read.jobs,
                idempotency_key=idempotency_key,
                reason=reason if reason is not None else read.reason,
            )
        if wait:
            jobs = found["job_ids"]
            ended = wait_for_batch(client, found["id"], timeout, as_json=as_json, known=found)
            found = {**ended, "job_ids": jobs}
    tables.show_batch(found, as_json=as_json)
    if wait:
        exit_as_batch(found)
