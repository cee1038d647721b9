"""Attaching volumes: finding one by it, having its device to oneself, and letting go of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from orchestrator.domain.errors import (
    BackendBusy,
    Drift,
    InUse,
    NoDevice,
    Problem,
    ScriptFailed,
    Unsupported,
)
from workers.backends.base import blockdevices
from workers.backends.base.attachments import Attached, Found, Holders
from workers.backends.base.call import Call
from workers.backends.base.facts import Device, VolumeFacts
from workers.backends.base.references import VolumeRef
from workers.backends.extstorage.asking import Asking
from workers.backends.extstorage.devices import parse_answer, shown

_T = TypeVar("_T")


class Attaching:
    """What of a provider's volumes is attached to this host."""

    def __init__(self, asking: Asking, room: Path) -> None:
        self._asking = asking
        self.attached = Attached(room)
        self.holders = Holders(room)

    def devices(self, volume: VolumeRef) -> list[Device]:
        """As what this host has it attached."""
        found = self.attached.of(volume.id)
        return [] if found is None else [found.device]

    def attach(self, volume: VolumeRef, call: Call) -> Device:
        """Attach it, for as long as nobody detaches it. Raises `Drift` if it is too short."""
        before = self.attached.of(volume.id)
        found = self.find(volume, call)
        if found.path and (volume.size_bytes or 0) > (found.size_bytes or 0):
            with self.let_go_if_it_fails(volume, found, call, before=before):
                refuse_drift(volume, found.path, found.size_bytes)
        self.attached.note(volume.id, found)
        return found.device

    def let_go(self, volume: VolumeRef, call: Call) -> None:
        """Detach it, whoever has attached it."""
        device = self.attached.of(volume.id)
        if device is None:
            # Perhaps attached by others: what they use is not taken from them.
            with suppress(ScriptFailed, NoDevice):
                device = self.find(volume, call)
        self.detach(volume, device, call)

    def find(self, volume: VolumeRef, call: Call | None) -> Found:
        """Attach it, which is how one finds it. `ScriptFailed` or `NoDevice` if that fails.

        A loop device that somebody looks at while it is detached stays until he has looked: a
        provider may name one that goes in this moment, and is asked once more then.
        """
        found = self._asked(volume, call)
        return shown(self._asked(volume, call)) if found.is_empty else found

    def _asked(self, volume: VolumeRef, call: Call | None) -> Found:
        answer = self._asking.run("attach", volume, {}, call, answers=True)
        with self._still_ours(volume, call):
            return parse_answer(answer)

    @contextmanager
    def _still_ours(self, volume: VolumeRef, call: Call | None) -> Iterator[None]:
        """What is seen here, good or bad, is what this claim's own scripts have left.

        `Conflict` if a later claim has worked on the volume by the end: the device may show
        another volume by now, or nothing.
        """
        try:
            yield
        finally:
            if call is not None:
                self._asking.scripts.refuse_late(volume.id, call)

    @contextmanager
    def needed(self, volume: VolumeRef, call: Call | None) -> Iterator[Found]:
        """Its device, for as long as this takes; raises what keeps it from being seen.

        One that was attached before, or that somebody uses, stays.
        """
        before = self.attached.of(volume.id)
        device = self.find(volume, call)
        with self.let_go_after(volume, device, call, before=before):
            yield device

    @contextmanager
    def let_go_after(
        self,
        volume: VolumeRef,
        device: Found,
        call: Call | None,
        *,
        before: Found | None = None,
    ) -> Iterator[None]:
        """Detach it at the end, unless it was attached ``before`` or somebody uses it.

        That the provider's ``detach`` fails spoils nothing of what was done: its device stays.
        """
        with self.let_go_if_it_fails(volume, device, call, before=before):
            yield
        if before is None:
            with suppress(InUse, BackendBusy, ScriptFailed):
                self.detach(volume, device, call)

    @contextmanager
    def let_go_if_it_fails(
        self,
        volume: VolumeRef,
        device: Found,
        call: Call | None,
        *,
        before: Found | None = None,
    ) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if before is None:
                with suppress(Problem):
                    self.detach(volume, device, call)
            raise

    def detach(self, volume: VolumeRef, device: Found | None, call: Call | None) -> None:
        """Detach it if nobody uses it, and see that nobody has it afterwards. Raises `InUse`.

        Some providers' devices are there for as long as the volume is; they stay.
        """
        if device is None or not _is_still_there(device):
            self._asking.run("detach", volume, {}, call)
        else:
            with self.exclusively(volume, device, call):
                pass  # up to here: a device that is held cannot be taken away
            self._asking.run("detach", volume, {}, call)
            if _is_still_there(device):
                with self.exclusively(volume, device, call):
                    pass
        self.attached.forget(volume.id)

    @contextmanager
    def exclusively(
        self, volume: VolumeRef, device: Found, call: Call | None, *, writable: bool = False
    ) -> Iterator[tuple[int, int]]:
        """Its device, if nobody uses it, to oneself: a descriptor and the size in bytes.

        `BackendBusy` while another call of ours has it.
        """
        kept = blockdevices.exclusively(block_device(device), writable=writable)
        with (
            self.holders.alone(volume.id),
            self.opened(volume, device, call, kept) as (descriptor, size),
        ):
            yield descriptor, size

    @contextmanager
    def opened(
        self,
        volume: VolumeRef,
        device: Found,
        call: Call | None,
        opening: AbstractContextManager[_T],
    ) -> Iterator[tuple[_T, int]]:
        """A device that is opened, and its size now; it is sure to be the one that was found."""
        path = block_device(device)
        with ExitStack() as held:
            with self._still_ours(volume, call):
                opened = held.enter_context(opening)
                with blockdevices.told(path):
                    disk = blockdevices.look_at(path)
                if not device.is_still(disk):
                    raise BackendBusy(
                        f"{path} shows something else now, or nothing, and was not touched: "
                        "somebody on this host has detached the volume meanwhile"
                    )
            yield opened, disk.size_bytes

    def refuse_attached(self, volume: VolumeRef) -> None:
        """`InUse` if this host has it attached."""
        for device in self.devices(volume):
            raise InUse(f"volume {volume.name} is attached here as {device.path}: detach it first")


def facts(volume: VolumeRef, device: Found, size: int = 0) -> VolumeFacts:
    """What there is of it; ``size`` where no device tells."""
    bytes_ = device.size_bytes or size or volume.size_bytes or 0
    return VolumeFacts(id=volume.id, name=volume.name, size_bytes=bytes_, used_bytes=bytes_)


def refuse_drift(volume: VolumeRef, path: str, there: int | None) -> None:
    """`Drift` if a device is not as large as the record says."""
    if volume.size_bytes not in (None, there):
        raise Drift(
            f"volume {volume.name} is recorded with {volume.size_bytes} bytes, and {path} has "
            f"{there}: nothing was changed. Find out which is right; 'orchestrator volume "
            f"reconcile {volume.name} what=size' then records the size that is there",
            recorded_bytes=volume.size_bytes,
            found_bytes=there,
        )


def block_device(device: Found) -> str:
    """The path of a volume's device. Raises `Unsupported` where it has none."""
    if device.path is None:
        raise Unsupported("a volume without a block device cannot be read or written here")
    return device.path


def _is_still_there(device: Found) -> bool:
    """Whether there is a device that shows just now what it did.

    Raises `BackendError` if that cannot be determined.
    """
    disk = None if device.path is None else blockdevices.present_at(device.path)
    return disk is not None and device.is_still(disk)
