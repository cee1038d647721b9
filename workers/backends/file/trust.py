"""A backend's directory, and what it keeps there, belong to root and the worker's user alone.

Whoever else may write there could put another image in a volume's place, or guess a stamp.
"""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator import trust
from orchestrator.domain.errors import BackendError


def refuse_others(backend: str, path: str | Path, status: os.stat_result) -> None:
    """`BackendError` if others may write to a file or directory of ours."""
    _refuse(backend, trust.why_others(path, status))


def refuse_open_modes(backend: str, path: str | Path, status: os.stat_result) -> None:
    """`BackendError` if others than its owner may write to it; an image's may be a hypervisor."""
    _refuse(backend, trust.why_open(path, status))


def refuse_open_ways(backend: str, path: Path) -> None:
    """`BackendError` if others could put another directory in the place of this one."""
    _refuse(backend, trust.why_untrusted(path))


def _refuse(backend: str, why: str | None) -> None:
    if why is not None:
        raise BackendError(f"backend {backend}: {why}")
