"""What is attached to this host: which device it is, over restarts, and who has it to himself.

A path says nothing about a device: after a restart, or once it was detached, something else may be
there. A device is known by the kernel's numbers and the boot they are of.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.domain.errors import BackendBusy, BackendUnavailable
from orchestrator.machine import boot_id
from workers.backends.base import blockdevices
from workers.backends.base.blockdevices import Disk
from workers.backends.base.facts import Device


@dataclass(frozen=True)
class Found:
    """A volume that is attached, and what its block device showed at that moment."""

    device: Device
    #: None where there are only URIs.
    disk: Disk | None

    @property
    def path(self) -> str | None:
        """Of the block device."""
        return self.device.path

    @property
    def size_bytes(self) -> int | None:
        """Of the block device."""
        return None if self.disk is None else self.disk.size_bytes

    @property
    def is_empty(self) -> bool:
        """Whether there is a device that shows nothing."""
        return self.disk is not None and self.disk.size_bytes == 0

    def is_still(self, disk: Disk) -> bool:
        """Whether this is the same device, which shows the same; it may have grown."""
        if self.disk is None or disk.size_bytes == 0:
            return False
        return (disk.number, disk.sequence) == (self.disk.number, self.disk.sequence)


class Attached:
    """What this host has attached, noted in a directory; forgotten when the host restarts."""

    def __init__(self, room: Path) -> None:
        self._room = room / "attached"

    def note(self, volume_id: str, found: Found) -> None:
        """Note an attachment that was verified just now."""
        known = {
            "path": found.path,
            "uris": list(found.device.uris),
            "number": found.disk.number if found.disk else None,
            "sequence": found.disk.sequence if found.disk else None,
            "boot": boot_id(),
        }
        new = made(self._room) / f".{volume_id}"
        new.write_text(json.dumps(known))
        new.replace(self._room / volume_id)

    def of(self, volume_id: str) -> Found | None:
        """The device that is still there; None if there is none.

        Raises `BackendError` if that cannot be determined.
        """
        try:
            known = json.loads((self._room / volume_id).read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        if known["boot"] != boot_id():
            return None
        device = Device(path=known["path"], uris=tuple(known["uris"]))
        if device.path is None:
            return Found(device, None)
        disk = blockdevices.present_at(device.path)
        if disk is None:
            return None
        # A loop device stays when what it showed is gone, and has no size then; or it has
        # been given something else to show.
        noted = Found(device, Disk(known["number"], known.get("sequence", disk.sequence), 0))
        return Found(device, disk) if noted.is_still(disk) else None

    def forget(self, volume_id: str) -> None:
        """Note that it is no longer attached."""
        with suppress(FileNotFoundError):
            (self._room / volume_id).unlink()


class Holders:
    """Which process of ours has which volume's device to itself: a locked file for each."""

    def __init__(self, room: Path) -> None:
        self._room = room / "holding"

    @contextmanager
    def alone(self, volume_id: str) -> Iterator[None]:
        """Be the only one of us. Raises `BackendBusy` with who is; that one may be frozen."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        file = os.open(made(self._room) / volume_id, flags, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(file, 20, 0).decode().strip() or "another"
                raise BackendBusy(
                    f"process {holder}, a worker, has the device of this volume to itself: an "
                    "earlier attempt has not ended"
                ) from None
            os.pwrite(file, f"{os.getpid():<20}".encode(), 0)
            yield
        finally:
            os.close(file)


def made(directory: Path) -> Path:
    """The directory, which is there then. Raises `BackendUnavailable` if it cannot be."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BackendUnavailable(
            f"{directory} cannot be made: {error.strerror}; 'path' of the backend names the "
            "driver's own directory"
        ) from error
    return directory
