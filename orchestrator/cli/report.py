"""``audit report``: the report of a period as a page to print, as tables, or as it is."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli import options
from orchestrator.cli.connection import connect
from orchestrator.domain.errors import InvalidInput

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
#: What spreadsheets would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Format(StrEnum):
    """How a report is written."""

    HTML = "html"
    JSON = "json"
    CSV = "csv"


From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="TIME",
        help="When the period begins: 2026-10-01 (UTC) or 2026-10-01T08:00:00+02:00; 30 days "
        "before its end, if absent.",
    ),
]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="TIME", help="When it ends (exclusive); now, if absent."),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="Where to write it; standard output, if absent."),
]


def report(
    since: From = None,
    until: To = None,
    backend: options.BackendIfAny = None,
    form: Annotated[
        Format,
        typer.Option("--format", help="A page to print, one JSON document, or tables as CSV."),
    ] = Format.HTML,
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
) -> None:
    """Report how full backends were, how jobs ended, what failed, differed and was removed."""
    with connect() as client:
        found = client.audit_report(_moment(since), _moment(until), backend=backend)
    written = WRITERS[Format.JSON if as_json else form](found)
    if output is None:
        print(written, end="", flush=True)
        return
    try:
        # As it is: CSV has line ends of its own.
        output.write_text(written, encoding="utf-8", newline="")
    except OSError as error:
        raise InvalidInput(
            f"{output} cannot be written: {error.strerror}", field="output"
        ) from None
    if not as_json:
        print(f"written to {output}")


def _moment(given: str | None) -> str | None:
    """A day is its midnight."""
    return f"{given}T00:00:00Z" if given and _DAY.fullmatch(given) else given


def _as_json(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=2) + "\n"


def _as_html(found: Mapping[str, Any]) -> str:
    from orchestrator.cli.report_page import page

    return page(found)


def _as_csv(found: Mapping[str, Any]) -> str:
    """A table for each section, each with a row of names; the first column tells the section."""
    written = io.StringIO()
    writer = csv.writer(written)
    for section, rows in sections(found):
        columns: list[str] = []
        for row in rows:
            if not columns:
                columns = list(row)
                writer.writerow(["section", *columns])
            writer.writerow([section, *(_cell(row[name]) for name in columns)])
    return written.getvalue()


def sections(found: Mapping[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each section of a report as a table: its name, and rows with the same columns."""
    period = {name: found[name] for name in ("from", "to", "backend", "made_at")}
    yield "report", [{**period, "removals": found["removals"]["total"]}]
    yield (
        "capacity",
        [{"backend": one["backend"], **day} for one in found["capacity"] for day in one["days"]],
    )
    yield "jobs", list(found["jobs"])
    yield (
        "failures",
        [
            {"code": cause["code"], "failures": cause["failures"], **cause["latest"]}
            for cause in found["failures"]
        ],
    )
    yield "findings", list(found["findings"])
    yield "removals", list(found["removals"]["items"])


def _cell(value: Any) -> Any:
    """A value that no spreadsheet takes for a formula: text that looks like one gets a quote."""
    is_formula = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if is_formula else value


#: What writes each format.
WRITERS = {Format.HTML: _as_html, Format.JSON: _as_json, Format.CSV: _as_csv}
