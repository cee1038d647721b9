"""A terminal of a process's own, which can be closed."""

from __future__ import annotations

import os
import sys

#: In a session of its own, the first terminal that is opened is the session's.
_BEGIN = """
import os, sys
os.setsid()
os.open(sys.argv[1], os.O_RDWR)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Terminal:
    """What `command` starts belongs to it."""

    def __init__(self) -> None:
        self._master, self._slave = os.openpty()

    def command(self, *words: str) -> list[str]:
        """The command that runs this one, whose program is a path, in the terminal."""
        return [sys.executable, "-c", _BEGIN, os.ttyname(self._slave), *words]

    def close(self) -> None:
        """Close it: the kernel sends SIGHUP."""
        os.close(self._slave)
        os.close(self._master)
