"""The page on reliability reports runs of this code: its head fits what the code has now."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from orchestrator.failpoints import POINTS
from tests.chaos import cases as broken_off
from tests.chaos.faults import DATABASES, DRIVERS
from tests.data import cases as among_others
from tests.data.section import BEGIN

ROOT = Path(__file__).parents[2]
_TOTALS = re.compile(
    r"([\d,]+) cells were tried, ([\d,]+) of them green: (\d+) cases of (\d+) actions, "
    r"(\d+) steps, drivers (.+), databases (.+), seed \d+\. Measured at"
)
_DATA = re.compile(r"They are (\d+) cases of (\d+) actions, ")
_COMMIT = re.compile(r"`([0-9a-f]{10,40})\+?`")


def sections() -> tuple[str, str]:
    """The page's part about crashes, and that about data."""
    crashes, _, data = (ROOT / "docs" / "reliability.md").read_text().partition(BEGIN)
    return crashes, data


def test_the_matrix_of_crashes_is_that_of_the_code() -> None:
    found = _TOTALS.search(sections()[0])
    assert found is not None
    tried, green, *counts = found.groups()
    cases = broken_off.CASES.values()
    assert tried == green
    assert counts == [
        str(len(cases)),
        str(len({case.action for case in cases})),
        str(len(POINTS)),
        " and ".join(DRIVERS),
        " and ".join(DATABASES),
    ]


def test_the_matrix_of_data_is_that_of_the_code() -> None:
    found = _DATA.search(sections()[1])
    cases = among_others.CASES.values()
    assert found is not None
    assert found.groups() == (str(len(cases)), str(len({case.action for case in cases})))


def test_the_commits_that_were_measured_are_in_the_history() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    named = [
        commit
        for line in (ROOT / "docs" / "reliability.md").read_text().splitlines()
        if "Measured at" in line
        for commit in _COMMIT.findall(line.partition("Measured at")[2])
    ]
    assert named
    for commit in named:
        git = ["git", "-C", str(ROOT)]
        if subprocess.run([*git, "cat-file", "-e", commit], capture_output=True).returncode:
            pytest.skip("the history is not all here")
        assert not subprocess.run([*git, "merge-base", "--is-ancestor", commit, "HEAD"]).returncode
