"""Block devices that a provider has attached: what its answer says, and what is really there."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.domain.errors import BackendBusy, BackendError, NoDevice
from orchestrator.machine import boot_id
from workers.backends import blockdevices
from workers.backends.extstorage.room import made
from workers.backends.interface import Device
from workers.processes import born

#: ``<hypervisor>:<uri>``, e.g. ``kvm:rbd:pool/volume``.
_URI = re.compile(r"[a-z0-9-]+:.*\S", re.ASCII)
#: How much of a wrong answer an error shows.
_SHOWN = 80


def parse_answer(answer: bytes) -> Device:
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
    if path:
        size_of(path)
    return Device(path=path or None, uris=tuple(lines))


def size_of(path: str) -> int:
    """Bytes of a block device of this host. Raises `NoDevice` if it is none."""
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
    return blockdevices.look_at(path).size_bytes


def _wrong(what: str) -> NoDevice:
    return NoDevice(f"the provider's attach {what}")


class Attached:
    """What this host has attached, noted in a directory; forgotten when the host restarts."""

    def __init__(self, room: Path) -> None:
        self._room = room / "attached"

    def note(self, volume_id: str, device: Device) -> None:
        """Note an attachment that was verified just now."""
        disk = blockdevices.look_at(device.path) if device.path else None
        known = {
            "path": device.path,
            "uris": list(device.uris),
            "number": disk.number if disk else None,
            "sequence": disk.sequence if disk else None,
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
                disk = blockdevices.look_at(known["path"])
            except (OSError, BackendError):
                return None
            # A loop device stays when what it showed is gone, and has no size then; or it has
            # been given something else to show.
            if disk.number != known["number"] or disk.size_bytes == 0:
                return None
            if disk.sequence != known.get("sequence", disk.sequence):
                return None
        return Device(path=known["path"], uris=tuple(known["uris"]))

    def forget(self, volume_id: str) -> None:
        """Note that it is no longer attached."""
        with suppress(FileNotFoundError):
            (self._room / volume_id).unlink()


class Holders:
    """Which process of ours has which volume's device to itself, noted in a directory."""

    def __init__(self, room: Path) -> None:
        self._room = room / "holding"

    @contextmanager
    def noted(self, volume_id: str) -> Iterator[None]:
        """Note that this process has it."""
        note = made(self._room) / volume_id
        note.write_text(json.dumps({"pid": os.getpid(), "born": born(os.getpid())}))
        try:
            yield
        finally:
            note.unlink(missing_ok=True)

    def refuse_ours(self, volume_id: str) -> None:
        """`BackendBusy` if a process that has noted so is there; it may be frozen."""
        try:
            known = json.loads((self._room / volume_id).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return
        if born(known["pid"]) == known["born"]:
            raise BackendBusy(
                f"process {known['pid']}, a worker, has the device of this volume to itself: an "
                "earlier attempt has not ended"
            )
