"""Making loop devices of images, changing them and taking them away (<linux/loop.h>)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from pathlib import Path

from orchestrator.domain.errors import BackendBusy, BackendError, InUse
from workers.backends.base import blockdevices
from workers.backends.file.loops import (
    AUTOCLEAR,
    BLOCK,
    CONTROL,
    READ_ONLY,
    STATUS,
    Loop,
    as_loop,
    holds_image,
    label,
    look,
    open_device,
    status_of,
)

_LOOP_CLR_FD = 0x4C01
_LOOP_SET_STATUS64 = 0x4C04
_LOOP_SET_CAPACITY = 0x4C07
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
#: file descriptor, block size, status, eight words reserved.
_CONFIGURE_HEAD = struct.Struct("=2I")
_CONFIGURE_TAIL = bytes(64)

#: Others may take the device that was free a moment ago.
_TRIES = 20
#: Whoever looks at devices opens them for a moment; a holder keeps one for longer than this.
_LET_GO = 1.0
_LOOK_AGAIN = 0.01


def attach(image: int, volume_id: str, *, read_only: bool, number: int | None = None) -> Loop:
    """A new device that holds the image of a volume, verified.

    ``image`` is a descriptor used for this alone: the device keeps it, and would keep any
    lock taken through it. ``number``: of the device to begin with.
    """
    status = os.fstat(image)
    flags = READ_ONLY if read_only else 0
    configured = (
        _CONFIGURE_HEAD.pack(image, 0)
        + STATUS.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, label(volume_id), b"", b"", 0, 0)
        + _CONFIGURE_TAIL
    )
    for _ in range(_TRIES):
        number = _free_number() if number is None else number
        try:
            device = open_device(number, os.O_RDONLY if read_only else os.O_RDWR)
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
        there = look(number, BLOCK / f"loop{number}")
        if not isinstance(there, tuple) or not holds_image(there, status):
            raise BackendError(f"/dev/loop{number} was set up and does not hold the image")
        loop = as_loop(number, there)
        verify(loop, status.st_size)
        return loop
    raise BackendBusy("others take the free loop devices of this host faster than we do")


def verify(loop: Loop, size: int) -> None:
    """Raise `BackendError` unless the device is there and as large as the image."""
    if not Path(loop.path).is_block_device():
        raise BackendError(f"{loop.path} holds the image, and is no block device on this host")
    if (there := blockdevices.size_of(loop.device)) != size:
        raise BackendError(
            f"{loop.path} has {there} bytes, its image {size}: devices have whole sectors of 512 "
            "bytes only, so grow the volume to a multiple of that"
        )


def keep(loop: Loop) -> None:
    """Let the device stay when its last user closes it."""
    _set_flags(loop, clear=AUTOCLEAR)


def refresh(loop: Loop) -> None:
    """Make the device as large as its image has become."""
    device = open_device(loop.number, os.O_RDONLY)
    try:
        fcntl.ioctl(device, _LOOP_SET_CAPACITY)
    finally:
        os.close(device)


def refuse_used(loop: Loop) -> None:
    """`InUse` if the device is mounted or part of another one, in whatever namespace."""
    blockdevices.refuse_used(loop.path, BLOCK / f"loop{loop.number}")


def detach(loop: Loop, image: os.stat_result) -> None:
    """Take the device away; `InUse` if somebody uses it, which then goes on unharmed."""
    refuse_used(loop)
    device = open_device(loop.number, os.O_RDONLY)
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
        left = look(loop.number, BLOCK / f"loop{loop.number}")
        if not isinstance(left, tuple) or not holds_image(left, image):
            return
        if time.monotonic() >= end:
            keep(loop)
            raise InUse(f"{loop.path} is held open: stop what uses it, then detach")
        time.sleep(_LOOK_AGAIN)


def _free_number() -> int:
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        return fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    finally:
        os.close(control)


def _set_flags(loop: Loop, *, clear: int) -> None:
    device = open_device(loop.number, os.O_RDONLY)
    try:
        status = list(status_of(device))
        status[8] &= ~clear
        fcntl.ioctl(device, _LOOP_SET_STATUS64, STATUS.pack(*status))
    finally:
        os.close(device)
