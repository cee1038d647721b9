"""Where the file system keeps what a file holds (<linux/fiemap.h>, <linux/fs.h>)."""

from __future__ import annotations

import errno
import fcntl
import struct

_FIEMAP = 0xC020660B
#: start, length, flags, extents mapped, room for extents, reserved.
_HEAD = struct.Struct("=2Q4I")
#: logical, physical, length, two words reserved, flags, three reserved.
_EXTENT = struct.Struct("=5Q4I")
_ROOM = 256
_SYNC = 1
_LAST = 1
_SHARED = 0x2000
_CANNOT_TELL = {errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS, errno.EBADR}

_GETFLAGS = 0x80086601
_IN_PLACE = 0x00800000  # FS_NOCOW_FL
#: Never write where something was written before, unless told so for a file.
_COPY_ON_WRITE = {"btrfs", "zfs", "bcachefs", "nilfs2", "f2fs"}


def kept_elsewhere(file: int, begin: int, end: int, file_system: str | None) -> int:
    """How many bytes of this range overwriting does not reach."""
    if file_system in _COPY_ON_WRITE and not _written_in_place(file):
        return max(0, end - begin)
    kept = 0
    for offset, length, flags in _extents(file, begin, end):
        if flags & _SHARED:
            kept += min(end, offset + length) - max(begin, offset)
    return kept


def _extents(file: int, begin: int, end: int) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    while begin < end:
        answer = bytearray(_HEAD.size + _ROOM * _EXTENT.size)
        _HEAD.pack_into(answer, 0, begin, end - begin, _SYNC, 0, _ROOM, 0)
        try:
            fcntl.ioctl(file, _FIEMAP, answer)
        except OSError as error:
            if error.errno in _CANNOT_TELL:
                return []
            raise
        mapped = _HEAD.unpack_from(answer)[3]
        for number in range(mapped):
            offset, _, length, _, _, flags, *_ = _EXTENT.unpack_from(
                answer, _HEAD.size + number * _EXTENT.size
            )
            found.append((offset, length, flags))
            begin = offset + length
        if not mapped or found[-1][2] & _LAST:
            break
    return found


def _written_in_place(file: int) -> bool:
    answer = bytearray(8)
    try:
        fcntl.ioctl(file, _GETFLAGS, answer)
    except OSError as error:
        if error.errno in _CANNOT_TELL:
            return False
        raise
    return bool(int.from_bytes(answer[:4], "little") & _IN_PLACE)
