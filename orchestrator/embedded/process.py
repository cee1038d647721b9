"""Ties the life of a child process to the process that started it."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h

# Loaded here and not in the child: between fork and exec, dlopen may wait for ever on a lock that
# a thread of the parent held at the fork.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Ask the kernel to send ``signum`` to this process when its parent dies, however it dies.

    Pass it as ``preexec_fn`` of `subprocess.Popen` (another signal with `functools.partial`).
    Where the system is not Linux it does nothing.

    The kernel's "parent" is the *thread* that forked: start such a child from a thread that lives
    as long as the child shall. The request survives exec, but a program that changes its user id
    after exec, or that has the set-user-id bit, loses it; `Popen(user=…)` is harmless, because it
    changes the user before ``preexec_fn`` runs (prctl(2), PR_SET_PDEATHSIG).
    """
    if _libc is not None and _libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
