"""Contents of images: sharing, copying, growing and overwriting them."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator

from workers.backends.interface import Call, Contents
from workers.backends.streams import data_ranges, is_zero, pour, read_parts, write_all

_FICLONE = 0x40049409  # <linux/fs.h>: _IOW(0x94, 9, int)
_CANNOT_SHARE = {
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EINVAL,
    errno.EXDEV,
    errno.ENOSYS,
    errno.ETXTBSY,
}


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


def copy(source: int, target: int, call: Call) -> None:
    """Copy contents and size into an empty file, leaving holes where there are zeroes."""
    size = os.fstat(source).st_size
    pour(Contents(size, read_parts(source, size)), target, size, call)
    os.ftruncate(target, size)


def grow(image: int, size: int) -> None:
    """Make a file at least this large: late or not, this never cuts anything off."""
    if os.fstat(image).st_size < size:
        # Unlike ftruncate, which would shrink a file that has grown further meanwhile.
        os.posix_fallocate(image, size - 1, 1)


def zero_steps(
    image: int, start: int, length: int | None
) -> Iterator[tuple[int, int, Callable[[], None]]]:
    """The steps that overwrite what was ever written in this range with zeroes.

    Each is (bytes done after it, bytes in all, the step itself), so that the caller can check
    between any two whether it may still go on. A hole has nothing to overwrite.
    """
    size = os.fstat(image).st_size
    end = size if length is None else min(size, start + length)
    for offset, much in data_ranges(image, start, end):

        def overwrite(offset: int = offset, much: int = much) -> None:
            if not is_zero(os.pread(image, much, offset)):
                write_all(image, bytes(much), offset)

        yield offset + much - start, end - start, overwrite
    yield end - start, end - start, lambda: os.fdatasync(image)
