"""Overwriting and removing images, while nobody else has them open."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from orchestrator.domain.errors import InUse, NotFound
from workers.backends.base.call import Call
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.backends.file import copying, layout, loops
from workers.backends.file.attaching import refuse_left
from workers.backends.file.extents import kept_elsewhere
from workers.backends.file.holding import changing, refuse_drift, settle_directory, unlink
from workers.backends.file.images import Image, found, needed, snapshots_of
from workers.backends.file.tree import Tree
from workers.backends.file.uses import alone

Still = Callable[[], None]


def overwrite(
    tree: Tree, volume: VolumeRef, call: Call, *, offset: int = 0, length: int | None = None
) -> int:
    """Overwrite with zeroes what was ever written to a volume, or to a range of it.

    Returns how many bytes that has wiped: not those that the file system keeps elsewhere still,
    because other images share them or because it never writes in place.
    """
    kept = 0

    def wipe(image: Image, begin: int, end: int, _still: Still) -> int | None:
        nonlocal kept
        if begin == offset:
            kept = kept_elsewhere(image.descriptor, begin, end, tree.file_system())
        return copying.wipe_step(image.descriptor, begin, end)

    done = in_steps(tree, volume, call, wipe, offset=offset, length=length)
    return max(0, done - kept)


def in_steps(
    tree: Tree,
    volume: VolumeRef,
    call: Call,
    step: Callable[[Image, int, int, Still], int | None],
    *,
    offset: int = 0,
    length: int | None = None,
    kept: bool = False,
) -> int:
    """Change an image, or a range of it, step by step, while nobody else has it open.

    ``step`` does a part of what is left of the range, and returns where to go on; None once all
    of it is on the disk. It is given what raises `InUse` once somebody begins to open the image.
    ``kept``: as for `alone`. Returns how many bytes the range has.
    """
    # Kept for the whole of it: what the kernel could not write is told to whoever syncs the file,
    # as long as somebody has it.
    with found(tree, volume) as there:
        image = needed(tree, there, volume)
        end = image.status.st_size
        end = end if length is None else min(end, offset + length)
        begin = offset
        while True:
            call.checkpoint()
            # Opened and locked anew for each step, so that a later claim can take over from one
            # that is stuck between two.
            with changing(tree, volume, call, in_place=True) as present:
                refuse_drift(tree, present, volume)
                with alone(present, kept=kept) as still:
                    next_step = step(present, begin, end, still)
            if next_step is None:
                break
            begin = next_step
            call.progress(begin - offset, end - offset)
    call.progress(end - offset, end - offset)
    return end - offset


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
