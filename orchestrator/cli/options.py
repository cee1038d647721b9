"""Options that many commands share, each with one meaning and one help text."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any

import typer

from orchestrator.cli.completion import action_names, backend_names
from orchestrator.domain.targets import KINDS, Kind


class After(StrEnum):
    """What a destructive job needs of the unfinished jobs before it on its volume."""

    SUCCESS = "success"
    END = "end"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
ActionName = Annotated[
    str,
    typer.Argument(
        metavar="ACTION",
        help="What to do, such as volume.create; see 'orchestrator action list'.",
        autocompletion=action_names,
    ),
]
KeyValues = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Parameters of the action, such as size=10G or metadata.owner=billing.",
    ),
]
Backend = Annotated[
    str, typer.Option("--backend", help="Name of the backend.", autocompletion=backend_names)
]
BackendIfAny = Annotated[
    str | None,
    typer.Option("--backend", help="Name of the backend.", autocompletion=backend_names),
]


def naming(kind: Kind) -> Any:
    """The option that names one of a kind."""
    return typer.Option(f"--{kind.name}", help=f"Name of the {kind.title}.")


Volume = Annotated[str, naming(KINDS["volume"])]
VolumeIfAny = Annotated[str | None, naming(KINDS["volume"])]
SnapshotIfAny = Annotated[str | None, naming(KINDS["snapshot"])]
HostIfAny = Annotated[
    str | None, typer.Option("--host", help="The host on which, or on whose behalf, the job runs.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        help="How long to wait; 'inf' for as long as it takes. Exit status 6 when it is over.",
    ),
]


def _key(key: str | None) -> str | None:
    if key is not None and re.fullmatch(r"[\x21-\x7e]{1,255}", key) is None:
        raise typer.BadParameter(
            "a key is 1 to 255 characters of ASCII, without blanks, such as fleet-2026-11"
        )
    return key


IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        callback=_key,
        metavar="KEY",
        help="The same key with the same request returns what was submitted the first time.",
    ),
]
Reason = Annotated[str | None, typer.Option("--reason", help="Why; kept in the history.")]
Priority = Annotated[
    int | None, typer.Option("--priority", help="From -20 (first) to 19 (last); 0 by default.")
]
RunAt = Annotated[
    str | None,
    typer.Option(
        "--run-at", metavar="TIME", help="Not before this time: 2030-01-31T02:00:00Z, or +02:00."
    ),
]
DependsOn = Annotated[
    list[int] | None,
    typer.Option("--depends-on", metavar="JOB", help="A job that must succeed first; repeatable."),
]
MaxAttempts = Annotated[
    int | None,
    typer.Option("--max-attempts", help="Attempts before a temporary error ends the job."),
]
AfterWhat = Annotated[
    After | None,
    typer.Option(
        "--after",
        help="Whether a destructive job needs the success or only the end of the jobs before it.",
    ),
]
Approval = Annotated[
    bool,
    typer.Option("--approval", help="Start only once an administrator has approved the job."),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="The most items to show.")]
Cursor = Annotated[
    str | None, typer.Option("--cursor", help="Continue after a page: its 'cursor' in the JSON.")
]
State = Annotated[
    str | None,
    typer.Option("--state", help="One or more states, separated by commas."),
]
