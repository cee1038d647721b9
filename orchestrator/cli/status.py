"""``status``: how the service is, on one screen."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from orchestrator.cli import options
from orchestrator.cli.backends import BACKENDS
from orchestrator.cli.connection import connect
from orchestrator.cli.output import Columns, print_details, print_json, print_table, when

_WORKERS: Columns = {
    "worker on": lambda worker: worker["host"],
    "pid": lambda worker: worker["pid"],
    "alive": lambda worker: worker["alive"],
    "last seen (UTC)": lambda worker: when(worker["seen_at"]),
    "serves": lambda worker: worker["backends"],
}

#: Seconds within which events get their links, also under load.
_CHAINED_SECONDS = 120.0


def _unchained(found: Any) -> str | None:
    """What there is to say of events that should have links by now."""
    since = found.get("unchained_since")
    if since is None:
        return None
    age = datetime.fromisoformat(found["now"]) - datetime.fromisoformat(since)
    if age.total_seconds() < _CHAINED_SECONDS:
        return None
    return (
        f"events since {when(since)} have no link of the chain: no scheduler runs, or its key is "
        "another one than before; 'orchestrator doctor' says which, where the scheduler runs"
    )


def status(as_json: options.Json = False) -> None:
    """Show the state of the service: version, who you are, queue, workers, backends, findings.

    'doctor' checks what this machine needs to be part of it.
    """
    with connect() as client:
        url = client.endpoint.url
        found: Any = client.status()
    if as_json:
        print_json({"url": url, **found})
        return
    you, queue = found["you"], found["queue"]
    print_details(
        {
            "service": f"{url}, version {found['version']}",
            "database": f"{found['database']}, epoch {found['epoch']}, "
            f"{when(found['now'])} UTC there",
            "you are": f"{you['name']}, role {you['role']}"
            + (f", project {you['project']}" if you["project"] else ""),
            "new jobs are": "taken" if queue["accepting"] else "refused: the queue is drained",
            "unfinished jobs": queue["unfinished"],
            "open findings": found["findings"] or "none",
            "restored": found["restored_at"]
            and f"{when(found['restored_at'])}: see 'orchestrator db check'",
        }
    )
    if (late := _unchained(found)) is not None:
        print(late)
    print()
    print_table(found["backends"], BACKENDS)
    print()
    print_table(found["workers"], _WORKERS)
    for backend in found["backends"]:
        if not any(w["alive"] and backend["name"] in w["backends"] for w in found["workers"]):
            print(f"no worker is alive that serves {backend['name']}: its jobs wait")
