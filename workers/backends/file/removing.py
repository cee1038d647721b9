"""Overwriting and removing images, while nobody else has them open."""

from __future__ import annotations

from contextlib import suppress

from orchestrator.domain.errors import InUse, NotFound
from workers.backends.base.call import Call
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.backends.file import copying, layout, loops
from workers.backends.file.attaching import refuse_left
from workers.backends.file.extents import kept_elsewhere
from workers.backends.file.holding import changing, refuse_drift, settle_directory, unlink
from workers.backends.file.images import found, needed, snapshots_of
from workers.backends.file.tree import Tree
from workers.backends.file.uses import alone


def overwrite(
    tree: Tree, volume: VolumeRef, call: Call, *, offset: int = 0, length: int | None = None
) -> int:
    """Overwrite with zeroes what was ever written to a volume, or to a range of it.

    Returns how many bytes that has wiped: not those that the file system keeps elsewhere still,
    because other images share them or because it never writes in place.
    """
    # Kept for the whole of it: what the kernel could not write is told to whoever syncs the file,
    # as long as somebody has it.
    with found(tree, volume) as there:
        image = needed(tree, there, volume)
        end = image.status.st_size
        end = end if length is None else min(end, offset + length)
        begin, kept = offset, 0
        while True:
            call.checkpoint()
            # Opened and locked anew for each step, so that a later claim can take over from one
            # that is stuck between two.
            with changing(tree, volume, call, in_place=True) as present:
                refuse_drift(tree, present, volume)
                with alone(present):
                    if begin == offset:
                        kept = kept_elsewhere(present.descriptor, begin, end, tree.file_system())
                    step = copying.wipe_step(present.descriptor, begin, end)
            if step is None:
                break
            begin = step
            call.progress(begin - offset, end - offset)
    call.progress(end - offset, end - offset)
    return max(0, end - offset - kept)


def take_away(tree: Tree, ref: VolumeRef | SnapshotRef, call: Call) -> bool:
    """Remove an image and its stamp; whether there was one."""
    with suppress(NotFound), changing(tree, ref, call) as image:
        if isinstance(ref, VolumeRef):
            refuse_kept(tree, ref)
            refuse_left(tree, ref.id, apart_from=loops.loops_of(image.status, image.file))
        call.checkpoint()
        with alone(image):
            unlink(tree, image)
        return True
    # An earlier attempt may have removed it and not have brought that onto the disk.
    if isinstance(ref, VolumeRef):
        refuse_left(tree, ref.id)
        place = layout.volume_place(ref.name, ref.id)
    else:
        place = layout.snapshot_place(ref.name, ref.id, ref.volume.id)
    settle_directory(tree, place.directory)
    return False


def refuse_kept(tree: Tree, volume: VolumeRef) -> None:
    """`InUse` if there are snapshots of the volume."""
    if tree.list_names(*snapshots_of(volume)):
        raise InUse(f"{volume.name} has snapshots: delete them first")
