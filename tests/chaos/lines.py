"""Lines to PostgreSQL, cut from outside at any moment, as a network does it."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: pidfd_getfd(2), the same on all machines; Python has no name for it.
_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)
_SOCKET = ".s.PGSQL."


def cut(pid: int, most: int) -> int:
    """Shut down up to so many of a process's lines to PostgreSQL; how many were cut."""
    done = 0
    for line in _lines(pid):
        if done == most:
            break
        line.shutdown(socket.SHUT_RDWR)
        done += 1
    return done


def can_cut() -> bool:
    """Whether this process may reach into those that it has started."""
    ours, theirs = socket.socketpair()
    with ours, theirs, _process(os.getpid()) as process:
        found = _libc.syscall(_PIDFD_GETFD, process, ours.fileno(), 0)
        if found < 0:
            return False
        os.close(found)
        return True


def _lines(pid: int) -> Iterator[socket.socket]:
    """The process's own sockets, each for as long as it is looked at."""
    with suppress(OSError), _process(pid) as process:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if not str(entry.readlink()).startswith("socket:"):
                    continue
                copy = _libc.syscall(_PIDFD_GETFD, process, int(entry.name), 0)
                if copy < 0:
                    continue
                with socket.socket(fileno=copy) as line:
                    if _SOCKET in str(line.getpeername()):
                        yield line


@contextmanager
def _process(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
