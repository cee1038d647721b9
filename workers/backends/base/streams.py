"""Contents on their way from one place to another: volumes, snapshots, images in files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain

from orchestrator.domain.errors import InvalidSize
from workers.backends.base.call import Call
from workers.backends.base.facts import Contents

#: Bytes between two looks at whether to stop; large enough that looking costs nothing.
CHUNK = 4 * 2**20
_ZEROES = bytes(CHUNK)


def data_ranges(file: int, offset: int, end: int) -> Iterator[tuple[int, int]]:
    """Where a file has data between these places, as (offset, length), in chunks."""
    while offset < end:
        try:
            first = os.lseek(file, offset, os.SEEK_DATA)
            hole = min(end, os.lseek(file, first, os.SEEK_HOLE))
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            if error.errno not in (errno.EINVAL, errno.ESPIPE):
                raise
            first, hole = offset, end  # a file system, or a device, that cannot tell
        for begin in range(first, hole, CHUNK):
            yield begin, min(CHUNK, hole - begin)
        offset = max(hole, offset + 1)


def read_parts(file: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The data in the first ``size`` bytes of a file or a device, for `Contents`."""
    for offset, length in data_ranges(file, 0, size):
        end = offset + length
        while offset < end:
            data = os.pread(file, end - offset, offset)
            if not data:
                # What is left out counts as zeroes: an end that comes too early is none.
                raise OSError(errno.EIO, "it ends before it should")
            yield offset, data
            offset += len(data)


def pour(
    contents: Contents,
    target: int,
    most: int,
    call: Call,
    *,
    zeroed: bool = True,
    writing: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Write contents into a file or a device; whoever wants them on its disk syncs it.

    Where ``zeroed``, the target reads as zeroes already, and zeroes are not written; otherwise
    all its ``most`` bytes are. Each write is done within ``writing()``. Raises `InvalidSize` if
    the contents are larger than ``most``.
    """
    total = most if not zeroed or contents.size_bytes is None else contents.size_bytes
    if contents.size_bytes is not None:
        _refuse_larger(contents.size_bytes, most)
    for offset, data in contents.parts if zeroed else _without_gaps(contents.parts, most):
        call.checkpoint()
        _refuse_larger(offset + len(data), most)
        if not (zeroed and is_zero(data)):
            with writing():
                write_all(target, data, offset)
        call.progress(offset + len(data), total)
    call.progress(total, total)


def _refuse_larger(size: int, most: int) -> None:
    if size > most:
        raise InvalidSize(
            f"the contents have at least {size} bytes, more than the volume's {most}: ask for a "
            "larger size_bytes",
            field="params.size_bytes",
        )


def _without_gaps(parts: Iterator[tuple[int, bytes]], size: int) -> Iterator[tuple[int, bytes]]:
    """The same, and zeroes where nothing is, ``size`` bytes in all."""
    done = 0
    for offset, data in chain(parts, [(size, b"")]):
        for gap in range(done, offset, CHUNK):
            yield gap, _ZEROES[: offset - gap]
        if data:
            yield offset, data
        done = offset + len(data)


def is_zero(data: bytes) -> bool:
    """Whether these bytes, a chunk at most, are all zeroes."""
    return data == (_ZEROES if len(data) == CHUNK else _ZEROES[: len(data)])


def write_all(target: int, data: bytes, offset: int) -> None:
    """Write all of the data at a place."""
    view = memoryview(data)
    while view:
        written = os.pwrite(target, view, offset)
        if not written:
            raise OSError(errno.EIO, "nothing was written")
        view = view[written:]
        offset += written
