"""What is in a provider's volumes: read, written and overwritten by their devices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from orchestrator.domain.errors import Unsupported
from workers.backends.base import blockdevices, wiping
from workers.backends.base.attachments import Found
from workers.backends.base.call import Call
from workers.backends.base.facts import Contents
from workers.backends.base.references import VolumeRef
from workers.backends.base.streams import pour, read_parts
from workers.backends.extstorage.asking import Asking
from workers.backends.extstorage.attaching import Attaching, block_device, refuse_drift
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
        path = device.path
        with self._attaching.exclusively(volume, device, call, writable=True) as (descriptor, size):
            wiping.zero(path, descriptor, offset, size, call, self._ours(volume, call))

    def is_zeroes(self, volume: VolumeRef, device: Found, call: Call) -> bool:
        """Whether all that can be read of it is zeroes."""
        with self._attaching.exclusively(volume, device, call) as (descriptor, size):
            return wiping.is_zeroes(block_device(device), descriptor, size, call)

    def fill(self, volume: VolumeRef, device: Found, contents: Contents, call: Call) -> None:
        """Write contents into a new volume, and zeroes where they have none: what a provider
        makes may hold what was there before."""
        path = block_device(device)
        with self._attaching.exclusively(volume, device, call, writable=True) as (descriptor, size):
            writing = wiping.telling(path, self._ours(volume, call))
            pour(contents, descriptor, size, call, zeroed=False, writing=writing)
            wiping.sync(path, descriptor)

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
        path = block_device(device)
        with self._attaching.exclusively(volume, device, call, writable=True) as (
            descriptor,
            whole,
        ):
            refuse_drift(volume, path, whole)
            end = whole if length is None else min(whole, offset + length)
            return wiping.overwrite(path, descriptor, offset, end, call, self._ours(volume, call))

    def _ours(self, volume: VolumeRef, call: Call) -> wiping.Writing:
        """What each write is done within: it is refused once a later claim has been here."""
        return lambda: self._asking.scripts.claimed(volume.id, call)


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
