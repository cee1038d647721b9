"""Directories in RAM for whole runs of tests, which leave nothing behind: not a loop device, not
a mount. What a run that was killed has left is cleared by the next one.

A run holds a lock in its directory for as long as it lives, so nobody mistakes it for dead.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_RAM = Path("/dev/shm")
_ENOUGH_BYTES = 2**30
_ALIVE = ".alive"


def ram() -> Path | None:
    """The directory in RAM, if there is room for a run in it."""
    there = os.access(_RAM, os.W_OK) and shutil.disk_usage(_RAM).free >= _ENOUGH_BYTES
    return _RAM if there else None


@contextmanager
def room(kind: str, otherwise: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of this run, in RAM where there is some to use; it is gone afterwards."""
    above = ram() or otherwise.mktemp(kind)
    clear(above, kind)
    path = Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=above))
    lock = hold(path)
    try:
        yield path
    finally:
        _take_away(path)
        os.close(lock)


def clear(above: Path, kind: str) -> None:
    """Take away what runs of this kind have left that are dead, and nobody uses."""
    for path in above.glob(f"{kind}-*"):
        try:
            lock = os.open(path / _ALIVE, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # not made by `room`, or already gone
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_used(path):
                _take_away(path)
        except BlockingIOError:
            pass  # it lives
        finally:
            os.close(lock)


def release(below: Path) -> None:
    """Unmount and detach everything whose image lies below a directory, also a deleted one."""
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = entry.read_text().rstrip("\n")
        except OSError:
            continue  # others' come and go
        if backing.startswith(f"{below}/"):
            device = f"/dev/{entry.parents[1].name}"
            while not subprocess.run(["umount", device], capture_output=True).returncode:
                pass
            subprocess.run(["losetup", "--detach", device], capture_output=True)


def hold(path: Path) -> int:
    """Take the lock of a run in its directory; it has its name only once it is held."""
    new = path / f"{_ALIVE}.new"
    lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    new.rename(path / _ALIVE)
    return lock


def _is_used(path: Path) -> bool:
    """Whether a process works in the directory, such as a server that outlived its run."""
    for link in (*Path("/proc").glob("[0-9]*/cwd"), *Path("/proc").glob("[0-9]*/fd/*")):
        try:
            target = str(link.readlink())
        except OSError:
            continue  # it has ended, or is not ours to look at
        if target.startswith(f"{path}/") and target != f"{path}/{_ALIVE}":
            return True
    return False


def _take_away(path: Path) -> None:
    release(path)
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):  # what was mounted last comes off first
        if mount.startswith(f"{path}/"):
            subprocess.run(["umount", "--lazy", mount], capture_output=True)
    shutil.rmtree(path, ignore_errors=True)
