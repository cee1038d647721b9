"""``audit read``: what archive files have, without any service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli import options
from orchestrator.cli.events import EVENTS
from orchestrator.cli.failures import say
from orchestrator.cli.output import print_json, print_table
from orchestrator.cli.tables import JOBS
from orchestrator.domain.errors import InvalidInput
from orchestrator.history.kinds import check_kind


def read(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE…", help="Archive files, of events or of jobs.")
    ],
    volume: options.VolumeIfAny = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help="A kind of event or an action, such as volume.grow."),
    ] = None,
    limit: options.Limit = 1000,
    as_json: options.Json = False,
) -> None:
    """Show the events, or the jobs, in archive files as 'event list' and 'job list' do."""
    wanted = _wanted(files, volume, kind)
    found = list(islice(wanted, limit))
    if not found:
        check_kind(kind)
    if as_json:
        print_json({"items": found, "cursor": None})
        return
    happened = [one for one in found if _is_event(one)]
    jobs = [one for one in found if not _is_event(one)]
    if happened or not jobs:
        print_table(happened, EVENTS)
    if jobs:
        print_table(jobs, JOBS)
    if more := sum(1 for _ in wanted):
        say(f"{more} more; --limit shows more of them")


def _wanted(files: Iterable[Path], volume: str | None, kind: str | None) -> Iterator[Any]:
    for path in files:
        for document in _documents(path):
            of_kind = document["kind"] if _is_event(document) else document["action"]
            if volume not in (None, document["volume"]) or kind not in (None, of_kind):
                continue
            document.pop("commit", None)
            yield document


def _is_event(document: Any) -> bool:
    return "kind" in document


def _documents(path: Path) -> Iterator[Any]:
    """The documents of a file. Raises `InvalidInput`."""
    import gzip
    import json
    import zlib

    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                document = json.loads(line)
                if not {"volume", "kind"} <= document.keys() and "action" not in document:
                    raise ValueError("a line is neither an event nor a job")
                yield document
    except (OSError, EOFError, ValueError, AttributeError, zlib.error) as error:
        raise InvalidInput(
            f"{path} is no archive that can be read: {error}", field="FILE"
        ) from None
