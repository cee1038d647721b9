"""Which loop devices of this host hold an image: block devices whose contents are a file.

Which device belongs to an image is asked of the kernel by the image's device and inode
number; paths may have changed since, or mean another file in another namespace.
Structures and numbers: <linux/loop.h>. Device numbers begin with 0, which is a number too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.domain.errors import AccessDenied

CONTROL = Path("/dev/loop-control")
BLOCK = Path("/sys/block")

_LOOP_GET_STATUS64 = 0x4C05
_MAJOR = 7
#: What the names that we give devices begin with; others give the whole path. There is an id in
#: each.
_OURS = b"volumes/"
READ_ONLY = 1
AUTOCLEAR = 4

#: device, inode, rdevice, offset, sizelimit; number, encryption type and key size, flags;
#: file name, encryption name, key; two words more.
STATUS = struct.Struct("=5Q4I64s64s32s2Q")


@dataclass(frozen=True)
class Loop:
    """A loop device that holds an image."""

    number: int
    read_only: bool
    #: Goes by itself when its last user closes it: a mount's, or one half detached.
    autoclear: bool
    #: It shows the image from its beginning to its end, not a part.
    whole: bool
    #: Made by this driver, not by somebody with losetup or mount.
    ours: bool

    @property
    def path(self) -> str:
        return f"/dev/loop{self.number}"

    @property
    def device(self) -> int:
        """Its device number."""
        return os.makedev(_MAJOR, self.number)


def available() -> bool:
    """Whether this process can make loop devices on this host."""
    return os.geteuid() == 0 and os.access(CONTROL, os.R_OK | os.W_OK)


def loops_of(image: os.stat_result, file: str = "") -> list[Loop]:
    """The devices that hold this image, whoever made them.

    ``file``: its name, by which a user who may not open devices knows those that may hold it;
    `AccessDenied` names one then.
    """
    found = []
    for number, entry in _numbers():
        status = look(number, entry)
        if status is None:
            continue
        if not isinstance(status, Path):
            if holds_image(status, image):
                found.append(as_loop(number, status))
        elif (loop := _look_from_afar(number, entry, status, image, file)) is not None:
            found.append(loop)
    return sorted(found, key=lambda loop: loop.number)


def label(volume_id: str) -> bytes:
    """The name that a device of a volume is given."""
    return _OURS + volume_id.encode()


def labelled(volume_id: str, file_system: int) -> list[Loop]:
    """The devices that this driver has made of a volume's images, wherever these are by now.

    ``file_system``: `os.stat_result.st_dev` of what the images lie on; copies elsewhere are
    others'. Those that may not be opened are not found.
    """
    found = []
    for number, entry in _numbers():
        status = look(number, entry)
        if not isinstance(status, tuple) or status[0] != _kernel_number(file_system):
            continue
        if status[9].startswith(_OURS) and volume_id.encode() in status[9]:
            found.append(as_loop(number, status))
    return sorted(found, key=lambda loop: loop.number)


class LoopImages:
    """The images that devices of this host hold now: one look, however many are asked about."""

    def __init__(self) -> None:
        self._images: set[tuple[int, int]] = set()
        #: Whether all devices could be looked at.
        self.all_seen = True
        for number, entry in _numbers():
            status = look(number, entry)
            if isinstance(status, tuple):
                self._images.add((status[0], status[1]))
            elif status is not None:
                try:
                    there = status.stat()
                except (FileNotFoundError, PermissionError):
                    self.all_seen = False
                else:
                    self._images.add((_kernel_number(there.st_dev), there.st_ino))

    def holds(self, image: os.stat_result) -> bool | None:
        """Whether one of them holds it; None: that could not be seen."""
        if (_kernel_number(image.st_dev), image.st_ino) in self._images:
            return True
        return False if self.all_seen else None


def _numbers() -> Iterator[tuple[int, Path]]:
    # Hosts may have hundreds, most of them free: paths are made for the others only.
    for name in os.listdir(BLOCK):  # noqa: PTH208
        if name.startswith("loop") and os.path.exists(f"{BLOCK}/{name}/loop"):  # noqa: PTH110
            yield int(name.removeprefix("loop")), BLOCK / name


def look(number: int, entry: Path) -> tuple[Any, ...] | Path | None:
    """What the kernel tells of a device; the path that it holds, to those who may not open it;
    None if it is free."""
    try:
        device = open_device(number, os.O_RDONLY)
    except (PermissionError, FileNotFoundError):
        try:
            return Path((entry / "loop" / "backing_file").read_text().rstrip("\n"))
        except FileNotFoundError:
            return None  # taken away just now
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EBUSY):  # being taken away just now
            return None
        raise
    try:
        return status_of(device)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    finally:
        os.close(device)


def holds_image(status: tuple[Any, ...], image: os.stat_result) -> bool:
    """Whether the device of which the kernel tells this holds an image."""
    return status[:2] == (_kernel_number(image.st_dev), image.st_ino)


def as_loop(number: int, status: tuple[Any, ...]) -> Loop:
    """The device of which the kernel tells this."""
    flags = status[8]
    return Loop(
        number=number,
        read_only=bool(flags & READ_ONLY),
        autoclear=bool(flags & AUTOCLEAR),
        whole=status[3] == 0 and status[4] == 0,
        ours=status[9].startswith(_OURS),
    )


def _look_from_afar(
    number: int, entry: Path, backing: Path, image: os.stat_result, file: str
) -> Loop | None:
    """What a user who may not open devices can know: enough to refuse what would do harm."""
    try:
        if not os.path.samestat(backing.stat(), image):
            return None
    except (FileNotFoundError, PermissionError):
        if backing.name != file:
            return None
        raise AccessDenied(
            f"/dev/loop{number} holds {backing}, which this worker may not look at, so whether "
            f"{file} is in use is not known: run the worker as root, or give its user access"
        ) from None
    try:
        return Loop(
            number=number,
            read_only=(entry / "ro").read_text().strip() == "1",
            autoclear=(entry / "loop" / "autoclear").read_text().strip() == "1",
            whole=(entry / "loop" / "offset").read_text().strip() == "0",
            ours=False,
        )
    except FileNotFoundError:
        return None  # taken away just now


def open_device(number: int, flags: int) -> int:
    """A descriptor of a device."""
    return os.open(f"/dev/loop{number}", flags | os.O_CLOEXEC | os.O_NONBLOCK)


def status_of(device: int) -> tuple[Any, ...]:
    """What the kernel tells of an open device; ENXIO if it is free."""
    buffer = bytearray(STATUS.size)
    fcntl.ioctl(device, _LOOP_GET_STATUS64, buffer)
    return STATUS.unpack(buffer)


def _kernel_number(device: int) -> int:
    """A device number as the loop driver reports it (<linux/kdev_t.h>: new_encode_dev)."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
