"""A worker that is not almighty: root's right to read what permissions forbid, laid down."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_libc = ctypes.CDLL(None, use_errno=True)
_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_FOWNER = 1, 2, 3


@contextmanager
def permissions_count() -> Iterator[None]:
    """Let permissions of files bind this thread during the block, as they bind other users."""
    before = _get()
    effective, permitted, inheritable = before
    mine = (1 << _CAP_DAC_OVERRIDE) | (1 << _CAP_DAC_READ_SEARCH) | (1 << _CAP_FOWNER)
    _set((effective & ~mine, permitted, inheritable))
    try:
        yield
    finally:
        _set(before)


def _get() -> tuple[int, int, int]:
    header = struct.pack("<Ii", _VERSION, 0)
    data = ctypes.create_string_buffer(24)
    if _libc.capget(header, data):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    low, high = struct.unpack("<III", data.raw[:12]), struct.unpack("<III", data.raw[12:24])
    effective, permitted, inheritable = (a | b << 32 for a, b in zip(low, high, strict=True))
    return effective, permitted, inheritable


def _set(sets: tuple[int, int, int]) -> None:
    header = struct.pack("<Ii", _VERSION, 0)
    low = struct.pack("<III", *(one & 0xFFFFFFFF for one in sets))
    high = struct.pack("<III", *(one >> 32 for one in sets))
    if _libc.capset(header, low + high):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
