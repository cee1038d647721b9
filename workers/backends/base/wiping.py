"""Overwriting block devices with zeroes, and seeing that there are only zeroes.

The device is open, and nobody else uses it (`blockdevices.exclusively`). Each write is done within
``writing()``, which raises once the call is too late.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from orchestrator.domain.errors import BackendError
from workers.backends.base.blockdevices import told
from workers.backends.base.call import Call
from workers.backends.base.streams import CHUNK, is_zero, write_all

Writing = Callable[[], AbstractContextManager[None]]
_ZEROES = bytes(CHUNK)


def overwrite(path: str, device: int, begin: int, end: int, call: Call, writing: Writing) -> int:
    """Write zeroes over a range; how many bytes, all of them on the disk."""
    size = max(0, end - begin)
    within = telling(path, writing)
    for done in range(0, size, CHUNK):
        call.checkpoint()
        part = _ZEROES[: size - done]
        with within():
            write_all(device, part, begin + done)
        call.progress(done + len(part), size)
    sync(path, device)
    return size


def zero(path: str, device: int, begin: int, end: int, call: Call, writing: Writing) -> None:
    """Have a range read as zeroes. What does already stays unwritten, and thin where it is thin."""
    within = telling(path, writing)
    for place in range(begin, end, CHUNK):
        call.checkpoint()
        length = min(CHUNK, end - place)
        if not is_zero(read(path, device, place, length)):
            with within():
                write_all(device, _ZEROES[:length], place)
        call.progress(place + length, end)
    sync(path, device)


def is_zeroes(path: str, device: int, size: int, call: Call) -> bool:
    """Whether all that can be read of it is zeroes."""
    for place in range(0, size, CHUNK):
        call.checkpoint()
        if not is_zero(read(path, device, place, min(CHUNK, size - place))):
            return False
    return True


def telling(path: str, writing: Writing) -> Writing:
    """The same, with what the kernel says of the device as an error of the vocabulary."""

    @contextmanager
    def within() -> Iterator[None]:
        with writing(), told(path):
            yield

    return within


def read(path: str, device: int, offset: int, length: int) -> bytes:
    """As much of a device, from there on."""
    data = b""
    while len(data) < length:
        with told(path):
            part = os.pread(device, length - len(data), offset + len(data))
        if not part:
            raise BackendError(f"{path} ends before its end")
        data += part
    return data


def sync(path: str, device: int) -> None:
    """Bring what was written onto the disk."""
    with told(path):
        os.fsync(device)
