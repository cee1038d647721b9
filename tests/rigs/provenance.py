"""Which state of the code a result is of."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[2]
#: What is not code: a page that is being written does not change what it reports.
_BESIDE = (":!docs", ":!*.md")
UNKNOWN = ""


@cache
def commit() -> str:
    """The commit of this checkout; with a plus sign, if its code has been changed since."""
    try:
        name = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--", ".", *_BESIDE)
    except (OSError, subprocess.CalledProcessError):
        return UNKNOWN
    return f"{name}+" if changed else name


def sentence(commits: Iterable[str]) -> str:
    """At which commits results were had, for the page that reports them."""
    named = [f"`{one}`" if one != UNKNOWN else "one unknown" for one in sorted(set(commits))]
    told = f"{', '.join(named[:-1])} and {named[-1]}" if named[1:] else "".join(named)
    return f"Measured at the commit{'s' if named[1:] else ''} {told}."


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(_ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
