"""What calls do with the contents of images: take them over, overwrite them, remove them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from orchestrator.domain.errors import InUse, InvalidSize, NotFound
from workers.backends.file import copying, layout, loops
from workers.backends.file.building import Built
from workers.backends.file.images import (
    Image,
    changing,
    found,
    held,
    needed,
    snapshots_of,
    unlink,
)
from workers.backends.file.tree import Tree, lock_file
from workers.backends.interface import Call, SnapshotRef, VolumeRef


def take(
    tree: Tree,
    source: VolumeRef | SnapshotRef,
    built: Built,
    call: Call,
    *,
    size: int | None = None,
) -> None:
    """Fill what is being built with the contents of an image, as they are at one moment.

    ``size``: how large it shall be; `InvalidSize` if that is less than the image has.
    """
    with found(tree, source) as there:
        image = needed(tree, there, source)
        if size is not None and size < image.status.st_size:
            raise InvalidSize(
                f"a clone of {source.name} has at least its {image.status.st_size} bytes, "
                f"not {size}"
            )
        written = _written(image)
        if not copying.share(image.descriptor, built.descriptor):
            unchanged = _unchanged(source.name, written)
            lock_file(image.descriptor, f"another call is changing {source.name}", shared=True)
            copying.copy(image.descriptor, built.descriptor, call)
            unchanged()
        if size is not None:
            os.ftruncate(built.descriptor, size)
        os.fsync(built.descriptor)


@contextmanager
def still(tree: Tree, image: Image) -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor through which an image can be read as it is at one moment, and what to call
    once all was read: it raises `InUse` if it was written to meanwhile."""
    written = _written(image)
    if not written:
        lock_file(image.descriptor, f"another call is changing {image.name}", shared=True)
        yield image.descriptor, _unchanged(image.name, [])
        return
    temporary = tree.directory(*layout.TEMPORARY)
    kept = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=temporary)
    try:
        if copying.share(image.descriptor, kept):
            yield kept, _unchanged(image.name, [])
        else:
            yield image.descriptor, _unchanged(image.name, written)
    finally:
        os.close(kept)


def _written(image: Image) -> list[loops.Loop]:
    """The devices through which the image may be written to just now, their buffers flushed."""
    written = [loop for loop in loops.loops_of(image.status) if not loop.read_only]
    for loop in written:
        # Without the right to, what is taken is what a power cut would have left.
        with suppress(PermissionError):
            loops.flush(loop)
    return written


def _unchanged(name: str, written: list[loops.Loop]) -> Callable[[], None]:
    """A check that nothing was written through these devices, flushed, since this call."""
    before = {loop: loops.written(loop) for loop in written}

    def check() -> None:
        for loop, counters in before.items():
            try:
                loops.flush(loop)
            except PermissionError:
                counters = None
            if counters is None or loops.written(loop) != counters:
                raise InUse(
                    f"{name} is attached as {loop.path} and was written to while it was copied, or "
                    "that cannot be told; this file system cannot share blocks. Stop what uses it, "
                    "or detach it, or keep the backend on XFS or btrfs"
                )

    return check


def overwrite(
    tree: Tree, volume: VolumeRef, call: Call, *, offset: int = 0, length: int | None = None
) -> int:
    """Overwrite with zeroes what was ever written to a volume, or to a range of it.

    Returns how many bytes read as zeroes since.
    """
    done = 0
    with found(tree, volume, os.O_RDWR) as there:
        image = needed(tree, there, volume)
        for done, total, step in copying.zero_steps(image.descriptor, offset, length):
            call.checkpoint()
            # Locked anew for each step: a later claim can take over from one that is stuck.
            with held(tree, image, call) as present:
                refuse_attached(needed(tree, present, volume))
                step()
            call.progress(done, total)
    return done


def take_away(tree: Tree, ref: VolumeRef | SnapshotRef, call: Call) -> bool:
    """Remove an image and its stamp; whether there was one."""
    with suppress(NotFound), changing(tree, ref, call) as image:
        refuse_attached(image)
        if isinstance(ref, VolumeRef):
            refuse_kept(tree, ref)
        call.checkpoint()
        unlink(tree, image)
        return True
    return False


def refuse_attached(image: Image) -> None:
    """`InUse` if a loop device of this host holds the image, whoever made it."""
    for loop in loops.loops_of(image.status):
        raise InUse(f"{image.name} is attached as {loop.path}: detach it first")


def refuse_kept(tree: Tree, volume: VolumeRef) -> None:
    """`InUse` if there are snapshots of the volume."""
    if tree.list_names(*snapshots_of(volume)):
        raise InUse(f"{volume.name} has snapshots: delete them first")
