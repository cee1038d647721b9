"""The report as people get it: a page that holds nothing foreign, and tables for spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from typing import Any
from xml.etree import ElementTree

from orchestrator.cli.report import WRITERS, Format
from orchestrator.cli.report_page import page
from orchestrator.cli.report_plot import plot

NASTY = "<script>alert('x')</script>&\"\x1b[31m"
GIB = 2**30


def day(number: int, **more: Any) -> dict[str, Any]:
    return {
        "day": f"2026-10-{number:02}", "at": f"2026-10-{number:02}T23:00:00Z",
        "total_bytes": 10 * GIB, "free_bytes": 7 * GIB, "promised_bytes": 4 * GIB, "volumes": 3,
        "volume_bytes": 3 * GIB, "used_bytes": number * GIB // 10, "snapshots": 1, **more,
    }  # fmt: skip


def found(word: str) -> dict[str, Any]:
    """A report in which every text that somebody chose is ``word``."""
    failed = {
        "job_id": 7, "action": word, "backend": word, "volume": word, "error_detail": word,
        "finished_at": "2026-10-02T00:00:00Z",
    }  # fmt: skip
    removed = {
        "number": 9, "at": "2026-10-02T00:00:00Z", "actor": word, "kind": word, "backend": word,
        "volume": word, "volume_id": "id", "snapshot": word, "policy": word, "job_id": 7,
        "reason": word,
    }  # fmt: skip
    return {
        "from": "2026-10-01T00:00:00Z", "to": "2026-10-31T00:00:00Z", "backend": word,
        "made_at": "2026-10-31T00:00:00Z",
        "capacity": [{"backend": word, "days": [day(number) for number in range(1, 20)]}],
        "jobs": [
            {"action": word, "state": word, "jobs": 2, "median_seconds": 0.5,
             "p95_seconds": None, "longest_seconds": 1.0}
        ],
        "failures": [{"code": word, "failures": 2, "latest": failed}],
        "findings": [{"kind": word, "opened": 1, "closed": 2, "open_now": 3}],
        "removals": {"total": 300, "items": [removed]},
    }  # fmt: skip


def test_the_page_escapes_whatever_people_wrote_and_needs_nothing_from_elsewhere() -> None:
    written = page(found(NASTY))
    assert "<script" not in written
    assert "\x1b" not in written
    assert "&lt;script&gt;" in written
    assert not re.search(r"(?:href|src)\s*=|url\(|@import", written)
    addresses = set(re.findall(r"https?://[^\"'\s]+", written))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not a place
    body = re.sub(r"<!DOCTYPE html>|<meta[^>]*>", "", written)
    ElementTree.fromstring(body)  # every element that begins ends
    assert "300 in all; the latest 1 follow." in written


def test_a_plot_has_a_title_axes_and_a_legend() -> None:
    drawn = ElementTree.fromstring(plot("fast", [day(1), day(2, total_bytes=None), day(9)]))
    words = {element.text for element in drawn.iter() if element.text}
    assert {"Capacity of fast", "GiB", "day (UTC)", "2026-10-01", "2026-10-09"} <= words
    assert {"total", "promised", "sizes of volumes", "used"} <= words
    lines = [element for element in drawn.iter() if element.tag.endswith("polyline")]
    assert [len(str(line.get("points")).split()) for line in lines] == [2, 3, 3, 3]


def test_a_plot_of_one_day_and_of_nothing_stored_can_be_drawn() -> None:
    nothing = dict.fromkeys(("total_bytes", "free_bytes"), None) | dict.fromkeys(
        ("promised_bytes", "volume_bytes", "used_bytes"), 0
    )
    drawn = ElementTree.fromstring(plot("fast", [day(1, **nothing)]))
    assert sum(element.tag.endswith("circle") for element in drawn.iter()) == 3


def test_an_empty_report_says_so() -> None:
    empty = {**found("x"), "capacity": [], "jobs": [], "failures": [], "findings": []}
    empty["removals"] = {"total": 0, "items": []}
    assert page(empty).count("None.") == 5


def test_tables_tell_their_section_first_and_hold_no_formulas() -> None:
    rows = list(csv.reader(io.StringIO(WRITERS[Format.CSV](found("=1+1")))))
    heads = [row for row in rows if row[0] == "section"]
    told = [row[0] for row in rows if row[0] != "section"]
    assert len(heads) == len(set(told)) == 6
    assert set(told) == {"report", "capacity", "jobs", "failures", "findings", "removals"}
    assert told.count("capacity") == 19
    assert all(not cell.startswith("=") for row in rows for cell in row)
    head, removal = (row for row in rows if row[0] == "removals" or row[1:3] == ["number", "at"])
    assert dict(zip(head, removal, strict=True))["reason"] == "'=1+1"
