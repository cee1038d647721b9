"""What is in a provider's volumes: read, written and overwritten by their devices."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.domain.errors import BackendError, Unsupported
from workers.backends.base import blockdevices
from workers.backends.base.call import Call
from workers.backends.base.facts import Contents
from workers.backends.base.references import VolumeRef
from workers.backends.base.streams import CHUNK, is_zero, pour, read_parts, write_all
from workers.backends.extstorage.asking import Asking
from workers.backends.extstorage.attaching import Attaching, block_device, refuse_drift
from workers.backends.extstorage.devices import Found
from workers.backends.extstorage.spec import ExtStorageOptions


class Writing:
    """Reads and writes devices that it has to itself, for as long as its claim is the latest."""

    def __init__(self, options: ExtStorageOptions, asking: Asking, attaching: Attaching) -> None:
        self._options = options
        self._asking = asking
        self._attaching = attaching

    @contextmanager
    def contents(self, of: VolumeRef, call: Call) -> Iterator[Contents]:
        """What is in a volume, of one moment. Raises `InUse` if it is written to meanwhile."""
        with self._attaching.needed(of, call) as device:
            path = block_device(device)
            with (
                self._attaching.holders.alone(of.id),
                self._attaching.opened(of, device, call, blockdevices.unchanged(path)) as (
                    (descriptor, check),
                    size,
                ),
            ):
                refuse_drift(of, path, size)
                yield Contents(size, _checked_parts(path, descriptor, size, check))

    def zero_new(self, volume: VolumeRef, device: Found, offset: int, call: Call) -> None:
        """Leave nothing of what a new volume's space held before, from ``offset`` on."""
        if self._options.zero_new is False:
            return
        if device.path is None:
            if self._options.zero_new:
                raise Unsupported(
                    "a volume without a block device cannot be zeroed here: set zero_new = false "
                    "if the provider does it, or if it does not matter"
                )
            return
        zeroes = bytes(CHUNK)
        path = device.path
        with self._attaching.exclusively(volume, device, call, writable=True) as (descriptor, size):
            for place in range(offset, size, CHUNK):
                call.checkpoint()
                length = min(CHUNK, size - place)
                # What is zero already stays unwritten, and thin where it is thin.
                if not is_zero(_read(path, descriptor, place, length)):
                    with self._asking.scripts.claimed(volume.id, call), blockdevices.told(path):
                        write_all(descriptor, zeroes[:length], place)
                call.progress(place + length, size)
            _sync(path, descriptor)

    def is_zeroes(self, volume: VolumeRef, device: Found, call: Call) -> bool:
        """Whether all that can be read of it is zeroes."""
        path = block_device(device)
        with self._attaching.exclusively(volume, device, call) as (descriptor, size):
            for place in range(0, size, CHUNK):
                call.checkpoint()
                if not is_zero(_read(path, descriptor, place, min(CHUNK, size - place))):
                    return False
        return True

    def fill(self, volume: VolumeRef, device: Found, contents: Contents, call: Call) -> None:
        """Write contents into a new volume, and zeroes where they have none: what a provider
        makes may hold what was there before."""
        path = block_device(device)

        @contextmanager
        def ours() -> Iterator[None]:
            with self._asking.scripts.claimed(volume.id, call), blockdevices.told(path):
                yield

        with self._attaching.exclusively(volume, device, call, writable=True) as (descriptor, size):
            pour(contents, descriptor, size, call, zeroed=False, writing=ours)
            _sync(path, descriptor)

    def overwrite(
        self,
        volume: VolumeRef,
        device: Found,
        call: Call,
        offset: int = 0,
        length: int | None = None,
    ) -> int:
        """Write zeroes over a device; how many bytes, all of them on the disk.

        `Drift` if it is not as large as recorded.
        """
        zeroes, done = bytes(CHUNK), 0
        path = block_device(device)
        with self._attaching.exclusively(volume, device, call, writable=True) as (
            descriptor,
            whole,
        ):
            refuse_drift(volume, path, whole)
            size = whole - offset
            size = size if length is None else min(size, length)
            while done < size:
                call.checkpoint()
                part = zeroes[: size - done]
                with self._asking.scripts.claimed(volume.id, call), blockdevices.told(path):
                    write_all(descriptor, part, offset + done)
                done += len(part)
                call.progress(done, size)
            _sync(path, descriptor)
        return done


def _checked_parts(
    path: str, descriptor: int, size: int, check: Callable[[], None]
) -> Iterator[tuple[int, bytes]]:
    """The parts of a device; whoever reads to the end learns of what was written meanwhile."""
    parts = read_parts(descriptor, size)
    while True:
        with blockdevices.told(path):
            part = next(parts, None)
        if part is None:
            break
        yield part
    check()


def _read(path: str, descriptor: int, offset: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        with blockdevices.told(path):
            part = os.pread(descriptor, length - len(data), offset + len(data))
        if not part:
            raise BackendError(f"{path} ends before its end")
        data += part
    return data


def _sync(path: str, descriptor: int) -> None:
    with blockdevices.told(path):
        os.fsync(descriptor)
