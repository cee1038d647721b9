"""Loop devices: block devices of this host whose contents are an image.

Which device belongs to an image is asked of the kernel by the image's device and inode
number; paths may have changed since, or mean another file in another namespace.
Structures and numbers: <linux/loop.h>. Device numbers begin with 0, which is a number too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.domain.errors import AccessDenied, BackendBusy, BackendError, InUse
from workers.backends import blockdevices

_CONTROL = Path("/dev/loop-control")
_BLOCK = Path("/sys/block")

_LOOP_CLR_FD = 0x4C01
_LOOP_SET_STATUS64 = 0x4C04
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_SET_CAPACITY = 0x4C07
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
#: What the names that we give devices begin with; others give the whole path.
_OURS = b"volumes/"
_READ_ONLY = 1
_AUTOCLEAR = 4

#: device, inode, rdevice, offset, sizelimit; number, encryption type and key size, flags;
#: file name, encryption name, key; two words more.
_STATUS = struct.Struct("=5Q4I64s64s32s2Q")
#: file descriptor, block size, status, eight words reserved.
_CONFIGURE_HEAD = struct.Struct("=2I")
_CONFIGURE_TAIL = bytes(64)

#: Others may take the device that was free a moment ago.
_TRIES = 20
#: Whoever looks at devices opens them for a moment; a holder keeps one for longer than this.
_LET_GO = 1.0
_LOOK_AGAIN = 0.01


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


def available() -> bool:
    """Whether this process can make loop devices on this host."""
    return os.geteuid() == 0 and os.access(_CONTROL, os.R_OK | os.W_OK)


def loops_of(image: os.stat_result, file: str = "") -> list[Loop]:
    """The devices that hold this image, whoever made them.

    ``file``: its name, by which a user who may not open devices knows those that may hold it;
    `AccessDenied` names one then.
    """
    found = []
    for number, entry in _numbers():
        status = _look(number, entry)
        if status is None:
            continue
        if not isinstance(status, Path):
            if _holds(status, image):
                found.append(_loop(number, status))
        elif (loop := _look_from_afar(number, entry, status, image, file)) is not None:
            found.append(loop)
    return sorted(found, key=lambda loop: loop.number)


class Held:
    """The images that devices of this host hold now: one look, however many are asked about."""

    def __init__(self) -> None:
        self._images: set[tuple[int, int]] = set()
        #: Whether all devices could be looked at.
        self.all_seen = True
        for number, entry in _numbers():
            status = _look(number, entry)
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


def attach(image: int, path: str, *, read_only: bool, number: int | None = None) -> Loop:
    """A new device that holds the image, verified.

    ``image`` is a descriptor used for this alone: the device keeps it, and would keep any
    lock taken through it. ``path``, below the backend's directory, is what tells the device
    from those that others made. ``number``: of the device to begin with.
    """
    status = os.fstat(image)
    flags = _READ_ONLY if read_only else 0
    told = path.encode(errors="replace")[:63]
    configured = (
        _CONFIGURE_HEAD.pack(image, 0)
        + _STATUS.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, told, b"", b"", 0, 0)
        + _CONFIGURE_TAIL
    )
    for _ in range(_TRIES):
        number = _free_number() if number is None else number
        try:
            device = _open_device(number, os.O_RDONLY if read_only else os.O_RDWR)
        except FileNotFoundError:
            raise BackendError(
                f"the kernel offers /dev/loop{number}, which this host has no device node for: "
                "run the worker where /dev is complete"
            ) from None
        try:
            fcntl.ioctl(device, _LOOP_CONFIGURE, configured)
        except OSError as error:
            if error.errno == errno.EBUSY:
                number = None
                continue
            raise
        finally:
            os.close(device)
        there = _look(number, _BLOCK / f"loop{number}")
        if not isinstance(there, tuple) or not _holds(there, status):
            raise BackendError(f"/dev/loop{number} was set up and does not hold {path}")
        loop = _loop(number, there)
        verify(loop, status.st_size)
        return loop
    raise BackendBusy("others take the free loop devices of this host faster than we do")


def verify(loop: Loop, size: int) -> None:
    """Raise `BackendError` unless the device is there and as large as the image."""
    if not Path(loop.path).is_block_device():
        raise BackendError(f"{loop.path} holds the image, and is no block device on this host")
    if (there := size_of(loop)) != size:
        raise BackendError(
            f"{loop.path} has {there} bytes, its image {size}: devices have whole sectors of 512 "
            "bytes only, so grow the volume to a multiple of that"
        )


def size_of(loop: Loop) -> int:
    """Bytes that the device has."""
    return int((_BLOCK / f"loop{loop.number}" / "size").read_text()) * 512


def keep(loop: Loop) -> None:
    """Let the device stay when its last user closes it."""
    _set_flags(loop, clear=_AUTOCLEAR)


def refresh(loop: Loop) -> None:
    """Make the device as large as its image has become."""
    device = _open_device(loop.number, os.O_RDONLY)
    try:
        fcntl.ioctl(device, _LOOP_SET_CAPACITY)
    finally:
        os.close(device)


def flush(loop: Loop) -> None:
    """Write what the device still has in memory to its image."""
    device = _open_device(loop.number, os.O_RDONLY)
    try:
        os.fsync(device)
    finally:
        os.close(device)


def written(loop: Loop) -> tuple[str, ...] | None:
    """The sectors that were ever written and discarded through the device; None if the kernel
    does not count them."""
    entry = _BLOCK / f"loop{loop.number}"
    if (entry / "queue" / "iostats").read_text().strip() != "1":
        return None
    counters = (entry / "stat").read_text().split()
    return counters[6], counters[13]


def refuse_used(loop: Loop) -> None:
    """`InUse` if the device is mounted or part of another one, in whatever namespace."""
    blockdevices.refuse_used(loop.path, _BLOCK / f"loop{loop.number}")
    try:
        os.close(_open_device(loop.number, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise InUse(
            f"{loop.path} is mounted in another namespace, or part of another device: end that, "
            "then detach"
        ) from None


def detach(loop: Loop, image: os.stat_result) -> None:
    """Take the device away; `InUse` if somebody uses it, which then goes on unharmed."""
    refuse_used(loop)
    device = _open_device(loop.number, os.O_RDONLY)
    try:
        fcntl.ioctl(device, _LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:  # gone already
            raise
    finally:
        os.close(device)
    # With others having it open the kernel does not refuse: it waits for the last to close.
    end = time.monotonic() + _LET_GO
    while True:
        left = _look(loop.number, _BLOCK / f"loop{loop.number}")
        if not isinstance(left, tuple) or not _holds(left, image):
            return
        if time.monotonic() >= end:
            keep(loop)
            raise InUse(f"{loop.path} is held open: stop what uses it, then detach")
        time.sleep(_LOOK_AGAIN)


def _numbers() -> Iterator[tuple[int, Path]]:
    # Hosts may have hundreds, most of them free: paths are made for the others only.
    for name in os.listdir(_BLOCK):  # noqa: PTH208
        if name.startswith("loop") and os.path.exists(f"{_BLOCK}/{name}/loop"):  # noqa: PTH110
            yield int(name.removeprefix("loop")), _BLOCK / name


def _look(number: int, entry: Path) -> tuple[Any, ...] | Path | None:
    """What the kernel tells of a device; the path that it holds, to those who may not open it;
    None if it is free."""
    try:
        device = _open_device(number, os.O_RDONLY)
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
        return _status(device)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise
    finally:
        os.close(device)


def _holds(status: tuple[Any, ...], image: os.stat_result) -> bool:
    return status[:2] == (_kernel_number(image.st_dev), image.st_ino)


def _loop(number: int, status: tuple[Any, ...]) -> Loop:
    flags = status[8]
    return Loop(
        number=number,
        read_only=bool(flags & _READ_ONLY),
        autoclear=bool(flags & _AUTOCLEAR),
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


def _free_number() -> int:
    control = os.open(_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    finally:
        os.close(control)


def _open_device(number: int, flags: int) -> int:
    return os.open(f"/dev/loop{number}", flags | os.O_CLOEXEC | os.O_NONBLOCK)


def _status(device: int) -> tuple[Any, ...]:
    buffer = bytearray(_STATUS.size)
    fcntl.ioctl(device, _LOOP_GET_STATUS64, buffer)
    return _STATUS.unpack(buffer)


def _set_flags(loop: Loop, *, clear: int) -> None:
    device = _open_device(loop.number, os.O_RDONLY)
    try:
        status = list(_status(device))
        status[8] &= ~clear
        fcntl.ioctl(device, _LOOP_SET_STATUS64, _STATUS.pack(*status))
    finally:
        os.close(device)


def _kernel_number(device: int) -> int:
    """A device number as the loop driver reports it (<linux/kdev_t.h>: new_encode_dev)."""
    major, minor = os.major(device), os.minor(device)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
