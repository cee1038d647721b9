"""A mount namespace for each process of a parallel run.

A process that takes a copy of the mounts (``unshare --mount``) holds all of them in use, also those
of tests beside it: a volume that one of these has just unmounted would still be mounted somewhere.
"""

from __future__ import annotations

import ctypes
import os

# From <sched.h> and <sys/mount.h>.
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000


def have_own_mounts() -> None:
    """Give this thread, and what it starts, mounts that nobody else's mounting changes.

    Without the right to do so everything stays as it is: such tests cannot mount either.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) == 0:
        libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
