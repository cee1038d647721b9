"""Contents of images: sharing, copying, growing and overwriting them."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator

from workers.backends.interface import Call

#: Bytes between two looks at whether to stop; large enough that looking costs nothing.
CHUNK = 4 * 2**20
_ZEROES = bytes(CHUNK)
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
    for offset, length in _chunks_with_data(source, size):
        call.checkpoint()
        chunk = os.pread(source, length, offset)
        if not _is_zero(chunk):
            _write(target, chunk, offset)
        call.progress(offset + len(chunk), size)
    os.ftruncate(target, size)
    call.progress(size, size)


def grow(image: int, size: int) -> None:
    """Make a file at least this large: late or not, this never cuts anything off."""
    if os.fstat(image).st_size < size:
        # Unlike ftruncate, which would shrink a file that has grown further meanwhile.
        os.posix_fallocate(image, size - 1, 1)


def zero_steps(image: int) -> Iterator[tuple[int, int, Callable[[], None]]]:
    """The steps that overwrite all that was ever written with zeroes.

    Each is (bytes behind it, size of all, the step itself), so that the caller can check
    between any two whether it may still go on. A hole has nothing to overwrite.
    """
    size = os.fstat(image).st_size
    for offset, length in _chunks_with_data(image, size):

        def overwrite(offset: int = offset, length: int = length) -> None:
            if not _is_zero(os.pread(image, length, offset)):
                _write(image, _ZEROES[:length], offset)

        yield offset + length, size, overwrite
    yield size, size, lambda: os.fdatasync(image)


def _chunks_with_data(image: int, size: int) -> Iterator[tuple[int, int]]:
    offset = 0
    while offset < size:
        try:
            start = os.lseek(image, offset, os.SEEK_DATA)
            end = min(size, os.lseek(image, start, os.SEEK_HOLE))
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            if error.errno != errno.EINVAL:
                raise
            start, end = offset, size  # a file system that cannot tell
        for begin in range(start, end, CHUNK):
            yield begin, min(CHUNK, end - begin)
        offset = max(end, offset + 1)


def _is_zero(chunk: bytes) -> bool:
    return chunk == (_ZEROES if len(chunk) == CHUNK else _ZEROES[: len(chunk)])


def _write(target: int, chunk: bytes, offset: int) -> None:
    view = memoryview(chunk)
    while view:
        written = os.pwrite(target, view, offset)
        view = view[written:]
        offset += written
