"""Block devices of this host: who uses one, as the kernel tells, and having one to oneself.

The kernel knows a device by its number, whatever nodes lead to it, and lets one holder at a
time claim it (``O_EXCL``): a file system mounted in any namespace, swap space, RAID, LVM, or
whoever else asks. Those who open it without a claim are looked for (`deviceusers`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from orchestrator.domain.errors import (
    AccessDenied,
    BackendError,
    BackendUnavailable,
    InUse,
    NoSpace,
)
from workers.backends.base.deviceusers import claimed_by, entry_of, loops_on, numbers_of, openers

#: Seconds for which a device may be held open before that counts as use: whoever looks at new
#: devices lets go of them within a moment.
_LET_GO = 1.0
_LOOK_AGAIN = 0.02
_SECTOR = 512
_MOST_NAMED = 5

#: The connection to it was lost, or it is gone: it may come back.
_LOST = {errno.ENXIO, errno.ENODEV, errno.ENOLINK, errno.ETIMEDOUT, errno.ESHUTDOWN}

#: <linux/fs.h>: write out and forget what is in memory of a device.
_BLKFLSBUF = 0x1261


@dataclass(frozen=True)
class Disk:
    """A block device as it is now."""

    #: As in `os.stat_result.st_rdev`.
    number: int
    #: Differs each time that something else is to be seen there; None: this kernel cannot tell.
    sequence: int | None
    size_bytes: int


def look_at(path: str) -> Disk:
    """The block device at a path. Raises `OSError`, and `BackendError` if it is none."""
    found = Path(path).stat()
    if not stat.S_ISBLK(found.st_mode):
        raise BackendError(f"{path} is no block device")
    entry = entry_of(found.st_rdev)
    whole = entry.resolve().parent if (entry / "partition").exists() else entry
    sequence = None
    with suppress(FileNotFoundError):
        sequence = int((whole / "diskseq").read_text())
    return Disk(found.st_rdev, sequence, size_of(found.st_rdev))


def present_at(path: str) -> Disk | None:
    """The same; None if there is no block device at a path any more.

    Raises `BackendError` if that cannot be determined: a device that may not be looked at is there.
    """
    try:
        return look_at(path)
    except (BackendError, FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENODEV:  # it goes while it is being looked at
            return None
        with told(path):
            raise


def size_of(number: int) -> int:
    """Bytes that a block device has."""
    return int((entry_of(number) / "size").read_text()) * _SECTOR


def is_going(number: int) -> bool:
    """Whether a loop device goes with those who look at it: it was detached while they had it open.

    Waits a moment for them to let go. One that stays is in use.
    """
    until = time.monotonic() + _LET_GO
    while time.monotonic() < until:
        try:
            detached = (entry_of(number) / "loop" / "autoclear").read_text().strip() == "1"
        except FileNotFoundError:
            return size_of(number) == 0
        if not detached:
            return False
        time.sleep(_LOOK_AGAIN)
    return False


@contextmanager
def told(path: str) -> Iterator[None]:
    """Raise what the kernel says of a device as errors of the vocabulary."""
    try:
        yield
    except OSError as error:
        said = f"{path}: {error.strerror or error}"
        if error.errno == errno.ENOSPC:
            raise NoSpace(f"{said}: what the device lies on is full") from error
        if error.errno in _LOST:
            raise BackendUnavailable(f"{said}: the device is out of reach") from error
        raise BackendError(f"{said}: the device failed; look at this host's log") from error


@contextmanager
def exclusively(path: str, *, writable: bool = False) -> Iterator[int]:
    """Have a block device to oneself; a descriptor of it.

    Nobody uses it or a partition of it when this begins, and nobody can mount it, swap to it or
    make it part of another device before it ends. Raises `InUse` with who uses it.
    """
    with told(path):
        descriptor = _claimed(path, os.O_RDWR if writable else os.O_RDONLY)
    try:
        with told(path):
            _refuse_opened(path, descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def flush(path: str) -> None:
    """Write what is in memory of a block device to what it lies on."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_used(path: str, entry: Path) -> None:
    """`InUse` if the kernel has a holder for a device; ``entry`` is the kernel's directory of it.

    Whoever only holds it open is not looked for.
    """
    try:
        os.close(_claimed(path, os.O_RDONLY))
    except InUse:
        raise
    except BackendError:
        # It is going away, or may not be opened: what is known without.
        if (use := claimed_by(path, numbers_of(entry))) is not None:
            raise InUse(f"{path} is {use}, then detach") from None


@contextmanager
def unchanged(path: str) -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor to read a block device by, and what raises `InUse` if it was written to since.

    Where the kernel counts no writes the device is held exclusively.
    """
    with told(path):
        counts = written(look_at(path).number) is not None
    if not counts:
        with exclusively(path) as descriptor:
            yield descriptor, _nothing
        return
    with told(path):
        descriptor = _opened(path, os.O_RDONLY)
    try:
        number = os.fstat(descriptor).st_rdev
        _flush(descriptor)
        before = written(number)

        def check() -> None:
            with told(path):
                _flush(descriptor)
                changed = written(number) != before or _being_written(number)
            if changed:
                raise InUse(
                    f"{path} was written to while it was read: what was read is of no one moment; "
                    "stop what writes to it, and try again"
                )

        yield descriptor, check
        check()
    finally:
        os.close(descriptor)


# -- claiming -----------------------------------------------------------------------------


def _claimed(path: str, flags: int) -> int:
    """A descriptor that claims a device. Raises `InUse` with who holds it."""
    end = time.monotonic() + _LET_GO
    while True:
        try:
            return _opened(path, flags | os.O_EXCL)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        use = claimed_by(path, numbers_of(entry_of(Path(path).stat().st_rdev)))
        if use is None and time.monotonic() < end:
            time.sleep(_LOOK_AGAIN)
            continue
        use = use or (
            "held by the kernel for somebody else (mounted where this process cannot see it, or "
            "part of another device): stop that"
        )
        raise InUse(f"{path} is {use}, then detach")


def _opened(path: str, flags: int) -> int:
    """A descriptor of a block device and of nothing else. Raises `OSError` if it is busy."""
    wanted = Path(path).stat() if Path(path).exists() else None
    if wanted is None or not stat.S_ISBLK(wanted.st_mode):
        raise BackendError(f"{path} is no block device of this host")
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError as error:
        raise AccessDenied(
            f"{path} may not be opened ({error.strerror}): give the worker's user access to the "
            "block devices of this host"
        ) from None
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise
        raise BackendError(f"{path} cannot be opened: {error.strerror}") from None
    if os.fstat(descriptor).st_rdev != wanted.st_rdev:
        os.close(descriptor)
        raise BackendError(f"{path} has become another device meanwhile")
    return descriptor


def _refuse_opened(path: str, own: int) -> None:
    """`InUse` if a device, or a partition of it, is held open by others than us."""
    number = os.fstat(own).st_rdev
    numbers = numbers_of(entry_of(number))
    end = time.monotonic() + _LET_GO
    while True:
        loops = loops_on(numbers)
        found = {} if loops else openers(numbers, own)
        if not loops and not found:
            return
        if time.monotonic() >= end:
            break
        time.sleep(_LOOK_AGAIN)
    if loops:
        raise InUse(f"{path} is part of {', '.join(loops[:_MOST_NAMED])}: stop that, then detach")
    named = [f"process {pid} ({name})" for pid, name in found.items()][:_MOST_NAMED]
    raise InUse(f"{path} is held open by {', '.join(named)}: stop that, then detach")


# -- writes -------------------------------------------------------------------------------


def written(number: int) -> tuple[str, ...] | None:
    """The sectors ever written to and discarded on a device; None if the kernel does not count."""
    entry = entry_of(number)
    whole = entry.resolve().parent if (entry / "partition").exists() else entry
    try:
        if (whole / "queue" / "iostats").read_text().strip() != "1":
            return None
        counters = (entry / "stat").read_text().split()
        # Not the number of requests: a flush is one.
        return counters[6], counters[13]
    except (OSError, IndexError):
        return None


def _being_written(number: int) -> bool:
    """Whether a write is under way."""
    return (entry_of(number) / "inflight").read_text().split()[1] != "0"


def _flush(descriptor: int) -> None:
    """Write out what others have written through the device's own memory, and read afresh."""
    with suppress(OSError):  # a device that is read-only
        os.fsync(descriptor)
    try:
        fcntl.ioctl(descriptor, _BLKFLSBUF)
    except OSError:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def _nothing() -> None:
    """Nobody else can have written."""
