"""What calls do with the contents of images: take them over, overwrite them, remove them."""

from __future__ import annotations

import os
from contextlib import suppress

from orchestrator.domain.errors import InUse, InvalidSize, NotFound
from workers.backends.file import copying, loops
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
        written = [loop for loop in loops.loops_of(image.status) if not loop.read_only]
        for loop in written:
            # Without the right to, what is taken is what a power cut would have left.
            with suppress(PermissionError):
                loops.flush(loop)
        if not copying.share(image.descriptor, built.descriptor):
            if written:
                raise InUse(
                    f"{source.name} is attached as {written[0].path}, and this file system "
                    "cannot share blocks, so it cannot be copied while it is written to: "
                    "detach it first, or keep the backend on XFS or btrfs"
                )
            lock_file(image.descriptor, f"another call is changing {source.name}", shared=True)
            copying.copy(image.descriptor, built.descriptor, call)
        if size is not None:
            os.ftruncate(built.descriptor, size)
        os.fsync(built.descriptor)


def overwrite(tree: Tree, volume: VolumeRef, call: Call) -> None:
    """Overwrite with zeroes all that was ever written to a volume."""
    with found(tree, volume, os.O_RDWR) as there:
        image = needed(tree, there, volume)
        for done, total, step in copying.zero_steps(image.descriptor):
            call.checkpoint()
            # Locked anew for each step: a later claim can take over from one that is stuck.
            with held(tree, image, call) as present:
                refuse_attached(needed(tree, present, volume))
                step()
            call.progress(done, total)


def take_away(tree: Tree, ref: VolumeRef | SnapshotRef, call: Call) -> None:
    """Remove an image and its stamp; nothing if it is gone."""
    with suppress(NotFound), changing(tree, ref, call) as image:
        refuse_attached(image)
        if isinstance(ref, VolumeRef):
            refuse_kept(tree, ref)
        call.checkpoint()
        unlink(tree, image)


def refuse_attached(image: Image) -> None:
    """`InUse` if a loop device of this host holds the image, whoever made it."""
    for loop in loops.loops_of(image.status):
        raise InUse(f"{image.name} is attached as {loop.path}: detach it first")


def refuse_kept(tree: Tree, volume: VolumeRef) -> None:
    """`InUse` if there are snapshots of the volume."""
    if tree.list_names(*snapshots_of(volume)):
        raise InUse(f"{volume.name} has snapshots: delete them first")
