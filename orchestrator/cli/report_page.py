"""The report as one page to print: no scripts, nothing from elsewhere, everything escaped.

A page of five tables needs no template engine: one function here writes every cell, and that
one escapes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from orchestrator.cli.output import clean, size, when
from orchestrator.cli.report_plot import plot

_PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>$title</title>
<style>
body { font: 11pt/1.4 sans-serif; color: #000; max-width: 56em; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 18pt; } h2 { font-size: 13pt; margin-top: 1.6em; }
table { border-collapse: collapse; width: 100%; font-size: 9pt; }
th, td { text-align: left; vertical-align: top; padding: .2em .5em; border-bottom: 1px solid #ccc;
  overflow-wrap: anywhere; }
th.n, td.n { text-align: right; white-space: nowrap; }
thead { display: table-header-group; }
tr, svg { break-inside: avoid; }
svg { width: 100%; font: 11px sans-serif; } svg .title { font-weight: bold; font-size: 13px; }
@media print { body { margin: 0; max-width: none; } }
</style>
</head>
<body>
<h1>$title</h1>
<p>From $since until $until (UTC), $backend. Made at $made.</p>
<h2>Capacity</h2>
$plots
$capacity
<h2>Jobs</h2>
$jobs
<h2>Why jobs failed</h2>
$failures
<h2>Differences between backends and their records</h2>
$findings
<h2>What was removed</h2>
<p>$removed</p>
$removals
</body>
</html>
""")
_TITLE = "Storage report"

#: Headings of each table, what stands under them, and whether that is a number.
_Column = tuple[str, Any, bool]


def page(found: Mapping[str, Any]) -> str:
    """The report as HTML."""
    removals = found["removals"]
    backend = found["backend"]
    return _PAGE.substitute(
        title=_escaped(_TITLE),
        since=_escaped(when(found["from"])),
        until=_escaped(when(found["to"])),
        backend=_escaped(f"backend {backend}" if backend else "all backends"),
        made=_escaped(when(found["made_at"])),
        plots="\n".join(plot(one["backend"], one["days"]) for one in found["capacity"]),
        capacity=_table(found["capacity"], _CAPACITY),
        jobs=_table(found["jobs"], _JOBS),
        failures=_table(found["failures"], _FAILURES),
        findings=_table(found["findings"], _FINDINGS),
        removed=_escaped(_counted(removals["total"], len(removals["items"]))),
        removals=_table(removals["items"], _REMOVALS),
    )


def _counted(total: int, told: int) -> str:
    """How many there were, and whether all of them follow."""
    return f"{total} in all." if told == total else f"{total} in all; the latest {told} follow."


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[_Column]) -> str:
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th{_class(n)}>{_escaped(heading)}</th>" for heading, _, n in columns)
    body = "\n".join(
        "<tr>" + "".join(f"<td{_class(n)}>{_escaped(tell(row))}</td>" for _, tell, n in columns)
        + "</tr>"
        for row in rows
    )  # fmt: skip
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _class(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def _escaped(value: object) -> str:
    return "" if value is None else escape(clean(str(value)))


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:,.3f} s"


def _object(row: Mapping[str, Any]) -> str:
    """``fast/vm1@daily``, as the command line writes it."""
    volume = f"/{row['volume']}" if row["volume"] else ""
    snapshot = f"@{row['snapshot']}" if row["snapshot"] else ""
    policy = f" policy {row['policy']}" if row["policy"] and not volume else ""
    return f"{row['backend']}{volume}{snapshot}{policy}"


def _latest(name: str) -> Any:
    return lambda backend: backend["days"][-1][name]


def _latest_size(name: str) -> Any:
    return lambda backend: size(backend["days"][-1][name])


_CAPACITY: list[_Column] = [
    ("backend", lambda backend: backend["backend"], False),
    ("last look", lambda backend: when(backend["days"][-1]["at"]), False),
    ("total", _latest_size("total_bytes"), True),
    ("free", _latest_size("free_bytes"), True),
    ("promised", _latest_size("promised_bytes"), True),
    ("volumes", _latest("volumes"), True),
    ("their sizes", _latest_size("volume_bytes"), True),
    ("used", _latest_size("used_bytes"), True),
    ("snapshots", _latest("snapshots"), True),
]
_JOBS: list[_Column] = [
    ("action", lambda row: row["action"], False),
    ("outcome", lambda row: row["state"], False),
    ("jobs", lambda row: row["jobs"], True),
    ("median", lambda row: _seconds(row["median_seconds"]), True),
    ("95th percentile", lambda row: _seconds(row["p95_seconds"]), True),
    ("longest", lambda row: _seconds(row["longest_seconds"]), True),
]
_FAILURES: list[_Column] = [
    ("cause", lambda row: row["code"], False),
    ("jobs", lambda row: row["failures"], True),
    ("latest", lambda row: row["latest"]["job_id"], True),
    ("at", lambda row: when(row["latest"]["finished_at"]), False),
    ("action", lambda row: row["latest"]["action"], False),
    ("volume", lambda row: row["latest"]["volume"], False),
    ("what it said", lambda row: row["latest"]["error_detail"], False),
]
_FINDINGS: list[_Column] = [
    ("kind", lambda row: row["kind"], False),
    ("opened", lambda row: row["opened"], True),
    ("closed", lambda row: row["closed"], True),
    ("open now", lambda row: row["open_now"], True),
]
_REMOVALS: list[_Column] = [
    ("at", lambda row: when(row["at"]), False),
    ("who", lambda row: row["actor"], False),
    ("what", lambda row: row["kind"], False),
    ("of", _object, False),
    ("why", lambda row: row["reason"], False),
    ("job", lambda row: row["job_id"], True),
]
