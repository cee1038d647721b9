"""What identifies this machine, and its present boot."""

from __future__ import annotations

import socket
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID = Path("/etc/machine-id")


def boot_id() -> str | None:
    """An id that changes with each boot; None where the system tells none.

    Device paths recorded under another boot mean nothing any more.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None


def machine_id() -> str:
    """An id that the machine keeps; its name where the system has none."""
    try:
        return _MACHINE_ID.read_text().strip() or socket.gethostname()
    except OSError:
        return socket.gethostname()
