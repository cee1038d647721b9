"""The page and the file that a run of the benchmarks leaves."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import report
from benchmarks.figures import Results
from benchmarks.sizes import QUICK


def test_what_was_left_out_is_named_and_has_no_section(tmp_path: Path) -> None:
    results = Results()
    results.read("batch", "PostgreSQL", "jobs/s", [3.0, 1.0, 2.0])
    results.left_out["debian"] = "there is no such server"
    page, figures = tmp_path / "performance.md", tmp_path / "bench.json"

    report.write_page(page, results, {"cores": "2"}, QUICK)
    report.write_json(figures, results, {"cores": "2"}, QUICK)

    text = page.read_text()
    assert "- `debian` was left out: there is no such server." in text
    assert "## One long batch" in text
    assert "## Debian's PostgreSQL" not in text
    assert json.loads(figures.read_text())["left_out"] == {"debian": "there is no such server"}
