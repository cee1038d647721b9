"""Tables of jobs, batches and plans, which several commands show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.cli.output import (
    Columns,
    params,
    print_details,
    print_json,
    print_table,
    size,
    text,
    when,
)
from orchestrator.domain.targets import COLUMNS, KINDS

JOBS: Columns = {
    "id": lambda job: job["id"],
    "action": lambda job: job["action"],
    "target": lambda job: target(job),
    "params": lambda job: params(job["params"]),
    "state": lambda job: job["state"],
    "created (UTC)": lambda job: when(job["created_at"]),
    "remark": lambda job: remark(job),
}


def target(job: Mapping[str, Any]) -> str:
    """``fast/vm1@monday on node1``: what a job acts on."""
    told = str(job["backend"])
    if job["volume"]:
        told += f"/{job['volume']}"
    if job["snapshot"]:
        told += f"@{job['snapshot']}"
    for kind in KINDS:
        if kind not in COLUMNS and job.get(kind):
            told += f" {kind} {job[kind]}"
    if job["host"]:
        told += f" on {job['host']}"
    return told


def remark(job: Mapping[str, Any]) -> str | None:
    """What one would ask about the job: why it waits, how far it is, why it failed."""
    if job["error"] and job["state"] in ("failed", "canceled"):
        return f"{job['error']['detail']} ({job['error']['code']})"
    if job["cancel_requested"] and job["finished_at"] is None:
        return "is being canceled"
    if job["waiting_on"]:
        return str(job["waiting_on"]["detail"])
    return _progress(job["progress"])


def _progress(progress: Mapping[str, Any] | None) -> str | None:
    if not progress:
        return None
    done, total = progress["done"], progress["total"]
    if progress["unit"] == "bytes":
        done, total = size(done), size(total)
    return f"{done} of {total} {progress['message'] or progress['unit']}"


def show_job(job: Any, *, as_json: bool) -> None:
    """One job with all that is known of it."""
    if as_json:
        print_json(job)
        return
    result = job["result"] or {}
    rows = {name: found for name, found in result.items() if _are_things(found)}
    print_details(
        {
            "job": job["id"],
            "action": job["action"],
            "target": target(job),
            "params": params(job["params"]),
            "state": job["state"],
            "remark": remark(job),
            "result": params({name: one for name, one in result.items() if name not in rows}),
            "priority": job["priority"] or None,
            "attempt": f"{job['attempt']} of {job['max_attempts']}" if job["attempt"] else None,
            "depends on": job["depends_on"],
            "batch": job["batch_id"],
            "ref": job["ref"],
            "retry of": job["retry_of"],
            "reason": job["reason"],
            "submitted by": job["submitted_by"],
            "not before": when(job["run_at"]),
            "created": when(job["created_at"]),
            "started": when(job["started_at"]),
            "finished": when(job["finished_at"]),
            "worker": job["worker"],
        }
    )
    print_things(rows)
    for attempt in job["attempts"]:
        error = attempt["error"] or {}
        print(
            f"  attempt {attempt['attempt']} {attempt['outcome']} {when(attempt['ended_at'])}: "
            f"{text(error.get('detail'))}"
        )
        print_things({"output": error.get("output") or []})
    for step in job["steps"]:
        print(f"  step {text(step['name'])} {step['state']} {when(step['at'])}")


def print_things(rows: Mapping[str, Any]) -> None:
    """The parts of a result that are lists of things, each with its own names and values."""
    for name, found in rows.items():
        for one in found:
            print(f"\n{text(name)}:")
            print_details({part: _lines(value) for part, value in one.items()})


def _are_things(value: object) -> bool:
    """Whether a part of a result is a list of things with names and values."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _lines(value: object) -> object:
    """A list or a mapping with a line for each of its parts."""
    if isinstance(value, Mapping):
        return "\n".join(f"{name}: {text(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "\n".join(text(part) for part in value)
    return value


def show_batch(batch: Any, *, as_json: bool) -> None:
    """A batch and its counts."""
    if as_json:
        print_json(batch)
        return
    jobs = batch["job_ids"]
    print_details(
        {
            "batch": batch["id"],
            "state": batch["state"],
            "jobs": f"{batch['total']}" + (f", ids {jobs[0]} to {jobs[-1]}" if jobs else ""),
            "succeeded": batch["succeeded"],
            "failed": batch["failed"],
            "canceled": batch["canceled"],
            "unfinished": batch["unfinished"],
            "reason": batch["reason"],
            "submitted by": batch["submitted_by"],
            "created": when(batch["created_at"]),
            "finished": when(batch["finished_at"]),
        }
    )


def show_plan(planned: Any) -> None:
    """What each job would do."""
    print_table(
        planned["jobs"],
        {
            "ref": lambda job: job["ref"],
            "action": lambda job: job["action"],
            "target": target,
            "params": lambda job: params(job["params"]),
            "would": lambda job: job["would"],
            "notes": lambda job: job["notes"],
            "waits for": lambda job: job["waits_for"],
        },
    )
