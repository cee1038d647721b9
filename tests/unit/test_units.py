"""The systemd units in ``deploy``: systemd takes them, and they run commands that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.root import run

UNITS = sorted((Path(__file__).parents[2] / "deploy").glob("*.service"))
PROGRAM = "/opt/orchestrator/bin/orchestrator"
#: The most that 'systemd-analyze security' may say of each, from 0 to 100: only the worker that
#: attaches devices needs root.
MOST = {"orchestrator-worker-root.service": 60}
ANALYZE = shutil.which("systemd-analyze")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_runs_a_command_that_there_is(
    unit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = re.search(rf"^ExecStart={PROGRAM} (\w+)$", unit.read_text(), re.MULTILINE)
    assert started is not None
    assert run([started[1], "--help"]) == 0
    assert f"orchestrator {started[1]}" in capsys.readouterr().out


@pytest.mark.skipif(ANALYZE is None, reason="there is no systemd-analyze here")
def test_systemd_takes_the_units_and_they_have_few_rights(tmp_path: Path) -> None:
    assert UNITS
    program = Path(sys.executable).with_name("orchestrator")
    copies = [tmp_path / unit.name for unit in UNITS]
    for unit, copy in zip(UNITS, copies, strict=True):
        copy.write_text(unit.read_text().replace(PROGRAM, str(program)))
    verified = _analyze("verify", "--man=no", *map(str, copies))
    assert (verified.returncode, verified.stderr) == (0, "")
    for copy in copies:
        most = str(MOST.get(copy.name, 25))
        words = ("--offline=true", "--no-pager", f"--threshold={most}")
        judged = _analyze("security", *words, str(copy))
        assert judged.returncode == 0, judged.stdout[-200:]


def _analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ANALYZE or "", *words], capture_output=True, text=True, timeout=60, check=False
    )
