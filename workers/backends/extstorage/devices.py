"""What a provider answers to ``attach``, and whether that is really there."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from orchestrator.domain.errors import NoDevice
from workers.backends.base import blockdevices
from workers.backends.base.attachments import Found
from workers.backends.base.blockdevices import Disk
from workers.backends.base.facts import Device

#: ``<hypervisor>:<uri>``, e.g. ``kvm:rbd:pool/volume``.
_URI = re.compile(r"[a-z0-9-]+:.*\S", re.ASCII)
#: How much of a wrong answer an error shows.
_SHOWN = 80


def shown(found: Found) -> Found:
    """It itself. Raises `NoDevice` if its device shows nothing."""
    if found.is_empty:
        raise _wrong(f"names {str(found.path)[:_SHOWN]!r}, a device of no bytes")
    return found


def parse_answer(answer: bytes) -> Found:
    """What ``attach`` has printed: a device, URIs, or both.

    The device is one that is there, on this host, just now. Raises `NoDevice` for anything else,
    which Ganeti takes for "not attached"; it does not tell whether there is a volume.
    """
    try:
        text = answer.decode()
    except UnicodeDecodeError:
        raise _wrong("prints bytes that are no text") from None
    path, *lines = text.removesuffix("\n").split("\n")
    if not path and not lines:
        raise _wrong("prints nothing, not even an empty line before its URIs")
    for line in lines:
        if not _URI.fullmatch(line):
            raise _wrong(f"prints {line[:_SHOWN]!r} where <hypervisor>:<uri> belongs")
    device = Device(path=path or None, uris=tuple(lines))
    return Found(device, _disk_at(path) if path else None)


def _disk_at(path: str) -> Disk:
    """What a block device of this host shows. Raises `NoDevice` if it is none."""
    if not path.startswith("/"):
        raise _wrong(
            f"prints {path[:_SHOWN]!r} where the path of a block device belongs: messages belong "
            "on standard error"
        )
    try:
        if not stat.S_ISBLK(Path(path).stat().st_mode):
            raise _wrong(f"names {path[:_SHOWN]!r}, which is no block device")
        disk = blockdevices.look_at(path)
        if blockdevices.is_going(disk.number):
            disk = blockdevices.look_at(path)
    except FileNotFoundError:
        spaces = ", with blanks at its end," if path != path.rstrip() else ""
        raise _wrong(f"names {path[:_SHOWN]!r},{spaces} which is not there") from None
    except OSError as error:
        raise _wrong(f"names {path[:_SHOWN]!r}: {error.strerror}") from None
    return disk


def _wrong(what: str) -> NoDevice:
    return NoDevice(f"the provider's attach {what}")
