"""Who may write where a backend keeps its own: root and the worker's user, nobody else.

Whoever else may could put another image in a volume's place, or guess a stamp.
"""

from __future__ import annotations

import os
import stat
from functools import cache
from pathlib import Path

from orchestrator.domain.errors import BackendError

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def is_private(status: os.stat_result, us: int) -> bool:
    """Whether only root and this user, the worker's, may write to a file or directory."""
    return status.st_uid in (0, us) and not status.st_mode & _OTHERS


def refuse_others(backend: str, path: str | Path, status: os.stat_result) -> None:
    """`BackendError` if others may write to a file or directory of ours."""
    if status.st_uid not in (0, os.geteuid()):
        raise BackendError(
            f"backend {backend}: {path} belongs to user {status.st_uid}, who could exchange what "
            "is in it: give it to root or to the worker's user"
        )
    refuse_open_modes(backend, path, status)


def refuse_open_modes(backend: str, path: str | Path, status: os.stat_result) -> None:
    """`BackendError` if others than its owner may write to it; an image's may be a hypervisor."""
    if status.st_mode & _OTHERS:
        raise BackendError(
            f"backend {backend}: others may write to {path} (mode "
            f"{stat.S_IMODE(status.st_mode):04o}), and so exchange what is in it: 'chmod go-w' it"
        )


def refuse_open_ways(backend: str, path: Path) -> None:
    """`BackendError` if others could put another directory in the place of this one."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - links are looked at one by one
    if _refuse_above(backend, path):
        _refuse_above(backend, path.resolve())


def _refuse_above(backend: str, path: Path) -> bool:
    """Whether there are links on the way, so that what they lead to is to be looked at, too."""
    us = os.geteuid()
    linked = path.is_symlink()
    for above in _parents(path):
        status = above.lstat()
        if is_private(status, us) and not stat.S_ISLNK(status.st_mode):
            continue
        if stat.S_ISLNK(status.st_mode):
            linked = True
            continue
        # In a sticky directory nobody renames what is another's.
        if status.st_mode & stat.S_ISVTX and status.st_uid in (0, us):
            continue
        refuse_others(backend, above, status)
    return linked


@cache
def _parents(path: Path) -> tuple[Path, ...]:
    return tuple(path.parents)
