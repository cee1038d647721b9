"""The long form: ``python -m tests.data``; the whole matrix, then its table.

With arguments for pytest, one cell chosen by ``DATA_CELL``, or a part by ``DATA_PART``, it is a
run of these alone; what comes of it replaces what the last whole run had found there, in the
table, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.data import report
from tests.data.choice import CHOICE
from tests.data.grounds import GROUNDS
from tests.data.record import read

_ROOT = Path(__file__).parents[2]
_KEPT = _ROOT / "build" / "data"
_PAGE = _ROOT / "docs" / "reliability.md"
#: There once a whole run has ended.
_WHOLE = _KEPT / "whole"


def main(arguments: list[str]) -> int:
    """Run, and tell how it ended."""
    environment = {**os.environ, "DATA": "long", "DATA_RECORD": str(_KEPT)}
    if CHOICE.cell is not None and not any(CHOICE.cells(name) for name in GROUNDS):
        print(f"no cell of seed {CHOICE.seed} has {CHOICE.cell!r} in its name", file=sys.stderr)
        return 2
    some = bool(arguments) or CHOICE.cell is not None or CHOICE.part is not None
    if not some:
        shutil.rmtree(_KEPT, ignore_errors=True)
    command = [sys.executable, "-m", "pytest", "tests/data", "--quiet"]
    parallel = ["--numprocesses", "auto", "--maxprocesses", "4", "--dist", "worksteal"]
    status = subprocess.run(
        [*command, *parallel, *arguments], cwd=_ROOT, env=environment, check=False
    ).returncode
    if some and not _WHOLE.exists():
        return status
    _KEPT.mkdir(parents=True, exist_ok=True)
    _WHOLE.touch()
    report.write(read(_KEPT), _PAGE, CHOICE.seed)
    print(f"{_PAGE.relative_to(_ROOT)} was written")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
