"""Block devices that a provider has attached: what its answer says, and what is really there."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from contextlib import suppress
from pathlib import Path

from orchestrator.domain.errors import BackendError, InUse
from orchestrator.machine import boot_id
from workers.backends import blockdevices
from workers.backends.extstorage.room import made
from workers.backends.interface import Device
from workers.processes import holding

#: ``<hypervisor>:<uri>``, e.g. ``kvm:rbd:pool/volume``.
_URI = re.compile(r"[a-z0-9-]+:.*\S", re.ASCII)
_SECTOR = 512
#: How much of a wrong answer an error shows.
_SHOWN = 80
#: Seconds for which a device may be held open before that counts as use.
_LET_GO = 1.0
_LOOK_AGAIN = 0.02


def parse_answer(answer: bytes) -> Device:
    """What ``attach`` has printed: a device, URIs, or both. Raises `BackendError`.

    The device is one that is there, on this host, just now.
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
    if path:
        size_of(path)
    return Device(path=path or None, uris=tuple(lines))


def size_of(path: str) -> int:
    """Bytes of a block device of this host. Raises `BackendError` if it is none."""
    if not path.startswith("/"):
        raise _wrong(
            f"prints {path[:_SHOWN]!r} where the path of a block device belongs: messages belong "
            "on standard error"
        )
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        spaces = ", with blanks at its end," if path != path.rstrip() else ""
        raise _wrong(f"names {path[:_SHOWN]!r},{spaces} which is not there") from None
    except OSError as error:
        raise _wrong(f"names {path[:_SHOWN]!r}: {error.strerror}") from None
    if not stat.S_ISBLK(found.st_mode):
        raise _wrong(f"names {path[:_SHOWN]!r}, which is no block device")
    return _size(found.st_rdev)


def _size(number: int) -> int:
    return int((_entry(number) / "size").read_text()) * _SECTOR


def _entry(number: int) -> Path:
    """What the kernel tells of a block device."""
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")


def _wrong(what: str) -> BackendError:
    return BackendError(f"the provider's attach {what}")


class Attached:
    """What this host has attached, noted in a directory; forgotten when the host restarts."""

    def __init__(self, room: Path) -> None:
        self._room = room / "attached"

    def note(self, volume_id: str, device: Device) -> None:
        """Note an attachment that was verified just now."""
        number = Path(device.path).stat().st_rdev if device.path else None
        known = {
            "path": device.path,
            "uris": list(device.uris),
            "number": number,
            "boot": boot_id(),
        }
        new = made(self._room) / f".{volume_id}"
        new.write_text(json.dumps(known))
        new.replace(self._room / volume_id)

    def of(self, volume_id: str) -> Device | None:
        """The device that is still there; None if there is none."""
        try:
            known = json.loads((self._room / volume_id).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        if known["boot"] != boot_id():
            return None
        if known["path"]:
            try:
                number = Path(known["path"]).stat().st_rdev
                # A loop device stays when what it showed is gone, and has no size then.
                if number != known["number"] or _size(number) == 0:
                    return None
            except OSError:
                return None
        return Device(path=known["path"], uris=tuple(known["uris"]))

    def forget(self, volume_id: str) -> None:
        """Note that it is no longer attached."""
        with suppress(FileNotFoundError):
            (self._room / volume_id).unlink()


def refuse_used(path: str) -> None:
    """`InUse` if somebody uses the device, saying who and what to do."""
    if (use := use_of(path)) is not None:
        raise InUse(f"{path} is {use}, then detach")


def use_of(path: str) -> str | None:
    """How a block device is used: as the kernel tells, or held open by a process.

    Whoever only looks at devices lets go of them within a moment, and is waited for.
    """
    real = str(Path(path).resolve())
    use = blockdevices.use_of(real, _entry(Path(path).stat().st_rdev))
    if use is not None:
        return use
    end = time.monotonic() + _LET_GO
    while openers := holding(real):
        if time.monotonic() >= end:
            named = ", ".join(f"process {pid} ({name})" for pid, name in openers.items())
            return f"held open by {named}: stop that"
        time.sleep(_LOOK_AGAIN)
    return None
