"""The long form: ``python -m tests.chaos``; two runs side by side, then the table.

With arguments for pytest it is a single run of what they choose; what comes of that replaces what
the last whole run had found there, in the table, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.chaos import report
from tests.chaos.choice import CHOICE
from tests.chaos.record import read

_ROOT = Path(__file__).parents[2]
_KEPT = _ROOT / "build" / "chaos"
_PAGE = _ROOT / "docs" / "reliability.md"
#: There once a whole run has ended.
_WHOLE = _KEPT / "whole"


def main(arguments: list[str]) -> int:
    """Run, and tell how it ended."""
    pytest = [sys.executable, "-m", "pytest", "tests/chaos", "--quiet"]
    environment = {**os.environ, "CHAOS": "long", "CHAOS_RECORD": str(_KEPT)}
    if arguments:
        status = subprocess.run(
            [*pytest, *arguments], cwd=_ROOT, env=environment, check=False
        ).returncode
        if not _WHOLE.exists():
            return status
    else:
        shutil.rmtree(_KEPT, ignore_errors=True)
        runs = [
            subprocess.Popen([*pytest, "--database", database], cwd=_ROOT, env=environment)
            for database in ("sqlite", "postgresql")
        ]
        status = max(run.wait() for run in runs)
        _WHOLE.touch()
    report.write(read(_KEPT), _PAGE, CHOICE.seed)
    print(f"{_PAGE.relative_to(_ROOT)} was written")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
