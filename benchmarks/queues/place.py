"""Where a rival's server is: told to its processes in one variable."""

from __future__ import annotations

import os

VARIABLE = "BENCHMARKS_RIVAL_URL"


def url() -> str:
    """The URL of the database or broker; empty where nobody has told."""
    return os.environ.get(VARIABLE, "")
