"""Contents of images: sharing, copying, growing and overwriting them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator

from orchestrator.domain.errors import InUse, Unsupported
from workers.backends.base.call import Call
from workers.backends.base.facts import Contents
from workers.backends.base.streams import (
    data_ranges,
    is_zero,
    pour,
    read_parts,
    write_all,
)

_FICLONE = 0x40049409  # <linux/fs.h>: _IOW(0x94, 9, int)
#: <linux/falloc.h>: FALLOC_FL_PUNCH_HOLE, and FALLOC_FL_KEEP_SIZE, which it needs.
_PUNCH_HOLE = 2 | 1
_CANNOT_SHARE = {
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EINVAL,
    errno.EXDEV,
    errno.ENOSYS,
    errno.ETXTBSY,
}


_libc = ctypes.CDLL(None, use_errno=True)


def share(source: int, target: int) -> bool:
    """Make ``target`` hold what ``source`` does, sharing its blocks; False if that cannot be.

    The file system does this in one step, even while the source is being written to.
    """
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT_SHARE:
            return False
        raise
    return True


def copy(source: int, target: int, call: Call, step: Callable[[], None]) -> None:
    """Copy contents and size into an empty file, leaving holes where there are zeroes.

    ``step`` is called for each part that was read.
    """
    size = os.fstat(source).st_size

    def parts() -> Iterator[tuple[int, bytes]]:
        for part in read_parts(source, size):
            step()
            yield part

    pour(Contents(size, parts()), target, size, call)
    os.ftruncate(target, size)


def grow(image: int, size: int) -> None:
    """Make a file at least this large: late or not, this never cuts anything off."""
    if os.fstat(image).st_size < size:
        # Unlike ftruncate, which would shrink a file that has grown further meanwhile.
        os.posix_fallocate(image, size - 1, 1)


def wipe_step(image: int, begin: int, end: int) -> int | None:
    """Overwrite the next of what was ever written in this range with zeroes.

    Returns where to go on; None once all of it is on the disk. A hole has nothing to overwrite.
    """
    for offset, much in data_ranges(image, begin, end):
        if not is_zero(os.pread(image, much, offset)):
            write_all(image, bytes(much), offset)
        return offset + much
    sync_overwritten(image)
    return None


def trim_step(image: int, begin: int, end: int, still: Callable[[], None]) -> int | None:
    """Make holes of the next whole blocks in this range that hold only zeroes.

    ``still`` raises `InUse` once somebody begins to open the image, who may write to them: then
    they are looked at again. Returns where to go on; None once all of it is on the disk. Raises
    `Unsupported` where the file system has no holes.
    """
    block = os.fstat(image).st_blksize
    for offset, much in data_ranges(image, begin, end):
        for first, length in _zero_blocks(os.pread(image, much, offset), offset, block):
            try:
                still()
            except InUse:
                return offset
            if not _punch_hole(image, first, length):
                raise Unsupported("the file system of this backend cannot make holes in files")
        return offset + much
    os.fdatasync(image)
    return None


def _zero_blocks(data: bytes, offset: int, block: int) -> Iterator[tuple[int, int]]:
    """Where whole blocks are all zeroes, as (offset, length); ``data`` is what is at ``offset``."""
    begin = -(-offset // block) * block
    end = (offset + len(data)) // block * block
    first = begin
    for place in range(begin, end, block):
        if not is_zero(data[place - offset : place - offset + block]):
            if place > first:
                yield first, place - first
            first = place + block
    if end > first:
        yield first, end - first


def _punch_hole(descriptor: int, offset: int, length: int) -> bool:
    """Make a hole of a range, which then reads as zeroes; False if the file system has none."""
    if not _libc.fallocate(descriptor, _PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length)):
        return True
    code = ctypes.get_errno()
    if code in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code))


def sync_overwritten(image: int) -> None:
    """Bring zeroes onto the disk."""
    try:
        os.fdatasync(image)
    except OSError:
        # The kernel forgets what it could not write, and would go on showing zeroes that are not
        # on the disk: the next attempt is to read what is there.
        os.posix_fadvise(image, 0, 0, os.POSIX_FADV_DONTNEED)
        raise
