"""What the benchmarks compute from what they measured, and the page that they write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.figures import Results
from benchmarks.side_by_side import Compared, times_worse
from benchmarks.sizes import QUICK


@pytest.mark.parametrize(
    ("more_is_better", "light", "heavy"), [(True, 300.0, 200.0), (False, 10.0, 15.0)]
)
def test_what_bears_something_is_compared_with_what_does_not(
    more_is_better: bool, light: float, heavy: float
) -> None:
    what = Compared("work", "units", more_is_better, lambda product, _: product)  # type: ignore[arg-type,return-value]
    sides: dict[str, Any] = {"without": light, "with": heavy}
    results = Results()

    assert times_worse(results, "history", what, sides, QUICK) == pytest.approx(1.5)

    assert {reading.name: reading.value for reading in results.section("history")} == {
        "work, without": light,
        "work, with": heavy,
        "work, compared": pytest.approx(1.5),
    }


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
