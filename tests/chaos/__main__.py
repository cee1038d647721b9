"""The long form: ``python -m tests.chaos``; two runs side by side, then the table.

``CHAOS_PART`` chooses a part: 0 to 7 an eighth of the cases, 8 the guards and the whole product.
The table is written once every part has been run. With arguments for pytest it is a single run of
what they choose. The results of either replace those of the same cells.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.chaos import report
from tests.chaos.choice import CHOICE, PARTS
from tests.chaos.record import read

_ROOT = Path(__file__).parents[2]
_KEPT = _ROOT / "build" / "chaos"
_PAGE = _ROOT / "docs" / "reliability.md"
_MATRIX = "tests/chaos/test_matrix.py"
_BESIDE = ("tests/chaos/test_guards.py", "tests/chaos/test_product.py")
#: A test is as many cells as there are steps; what is stuck in one of them is found by the cell.
_TEST_SECONDS = 1800
#: A file of each part that has been run.
_RUN = [_KEPT / f"part-{part}" for part in range(PARTS + 1)]


def main(arguments: list[str]) -> int:
    """Run, and report how it ended."""
    part = CHOICE.part
    if part is not None and part not in range(PARTS + 1):
        print(f"the parts are 0 to {PARTS}", file=sys.stderr)
        return 2
    paths = ["tests/chaos"] if part is None else _BESIDE if part == PARTS else [_MATRIX]
    pytest = [sys.executable, "-m", "pytest", *paths, "--quiet", f"--timeout={_TEST_SECONDS}"]
    environment = {**os.environ, "CHAOS": "long", "CHAOS_RECORD": str(_KEPT)}
    if arguments:
        status = subprocess.run(
            [*pytest, *arguments], cwd=_ROOT, env=environment, check=False
        ).returncode
    else:
        if part is None:
            shutil.rmtree(_KEPT, ignore_errors=True)
        runs = [
            subprocess.Popen([*pytest, "--database", database], cwd=_ROOT, env=environment)
            for database in ("sqlite", "postgresql")
        ]
        status = max(run.wait() for run in runs)
        for done in _RUN if part is None else [_RUN[part]]:
            done.touch()
    if missing := [one.name for one in _RUN if not one.exists()]:
        print(f"the page is written once these have been run, too: {', '.join(missing)}")
        return status
    report.write(read(_KEPT), _PAGE, CHOICE.seed)
    print(f"{_PAGE.relative_to(_ROOT)} was written")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
