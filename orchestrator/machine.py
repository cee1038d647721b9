"""What identifies this machine's present boot."""

from __future__ import annotations

from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str | None:
    """An id that changes with each boot; None where the system tells none.

    Device paths recorded under another boot mean nothing any more.
    """
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return None
