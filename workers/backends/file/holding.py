"""Holding an image while it is changed: locked, still there, ours, and as it is recorded."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from orchestrator.domain.errors import BackendBusy, Conflict, Drift
from workers.backends.base.call import Call
from workers.backends.base.fences import refuse_late
from workers.backends.base.files import anew
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.backends.file import layout
from workers.backends.file.images import Image, drop_empty, files, found, needed
from workers.backends.file.stamps import Stamp, drop_stamp, read_stamp, settle_stamps, write_stamp
from workers.backends.file.tree import Tree, lock_file
from workers.backends.file.trust import refuse_open_modes

#: How often an image is looked for again that was exchanged between finding and locking.
_TRIES = 10


@contextmanager
def changing(
    tree: Tree, ref: VolumeRef | SnapshotRef, call: Call, *, in_place: bool = False
) -> Iterator[Image]:
    """The image as it now is, open for writing and locked for the block.

    ``in_place``: its contents will be changed or lost, so the file may have no names but ours.
    Raises `NotFound`, and what `held` raises.
    """
    for _ in range(_TRIES):
        with (
            found(tree, ref, os.O_RDWR) as image,
            held(tree, needed(tree, image, ref), call) as present,
        ):
            if present is not None:
                if in_place:
                    refuse_links(tree, present)
                yield present
                return
    raise BackendBusy(f"the image of {ref.name} is exchanged again and again")


@contextmanager
def held(tree: Tree, image: Image, call: Call) -> Iterator[Image | None]:
    """The image as it now is, while nobody else changes it; None if it is no longer there.

    Raises `Conflict` if a later claim has changed it already, and `BackendBusy` if another
    call is about to. From here on earlier claims are the late ones.
    """
    image.ours()
    lock_file(image.descriptor, f"another call is changing {image.name}")
    try:
        present = _present(tree, image)
        if present is not None:
            refuse_writable(tree, present)
            stamp = fenced(tree, present.ours(), call)
            if stamp != present.stamp:
                write_stamp(tree, present.descriptor, stamp, durable=False)
                present = replace(present, stamp=stamp)
        yield present
    finally:
        fcntl.flock(image.descriptor, fcntl.LOCK_UN)


def refuse_writable(tree: Tree, image: Image) -> None:
    """`BackendError` if others than its owner may write to the image."""
    where = tree.where(image.directory, image.file)
    refuse_open_modes(tree.backend, where, image.status)


def fenced(tree: Tree, stamp: Stamp, call: Call) -> Stamp:
    """The stamp with this call's fence, or `Conflict` if it bears a larger one.

    Fences of two databases do not compare: an image that another one adopted starts anew.
    """
    if stamp.installation == tree.installation:
        refuse_late(stamp.name, stamp.fence, call)
    return replace(stamp, installation=tree.installation, fence=call.fence)


def refuse_drift(
    tree: Tree, image: Image, of: VolumeRef | SnapshotRef, *, up_to: int | None = None
) -> None:
    """`Drift` if the image is not as large as the inventory says.

    ``up_to``: an earlier attempt may have made it larger already, up to this.
    """
    recorded, there = of.size_bytes, image.status.st_size
    if recorded is None or there == recorded or (up_to is not None and recorded < there <= up_to):
        return
    if isinstance(of, SnapshotRef):
        what, volume, part = f"snapshot {of.name} of {of.volume.name}", of.volume.name, "snapshots"
    else:
        what, volume, part = of.name, of.name, "size"
    raise Drift(
        f"{what} has {there} bytes on the storage and {recorded} in the inventory: somebody "
        "changed the image's size. Nothing was changed now. Find out what happened to its "
        f"contents; 'orchestrator volume reconcile {volume} --backend {tree.backend} "
        f"what={part}' then records the size that is there",
        size_bytes=there,
        recorded_bytes=recorded,
    )


def refuse_links(tree: Tree, image: Image) -> None:
    """`Conflict` if the file has names that are not ours: what changes here changes there."""
    others = image.status.st_nlink - 1
    if others and others > len(list(_further_names(tree, image))):
        raise Conflict(
            f"{image.path} has further names (hard links), so that a change of it would change "
            f"them, too: remove them ('find {tree.path} -inum {image.status.st_ino}' shows those "
            "in the backend's directory)"
        )


def unlink(tree: Tree, image: Image) -> None:
    """Remove a held image durably, its stamp, and directories that only it needed."""
    stamp = image.ours()
    drop_further_names(tree, image)
    directory = tree.directory(*image.directory)
    os.unlink(image.file, dir_fd=directory)
    os.fsync(directory)
    drop_stamp(tree, stamp.id)
    drop_empty(tree, image.directory)


def drop_further_names(tree: Tree, image: Image) -> None:
    """Remove, durably, the names that a rename or a making that was cut short has left."""
    if image.status.st_nlink == 1:
        return
    for directory, file in list(_further_names(tree, image)):
        above = tree.directory(*directory)
        with suppress(FileNotFoundError):
            os.unlink(file, dir_fd=above)
        os.fsync(above)
        drop_empty(tree, directory)


def settle(tree: Tree, image: Image) -> None:
    """See that what an earlier attempt made is on the disk, before it is reported as made."""
    descriptor = os.open(anew(image.descriptor), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    settle_stamps(tree)
    settle_directory(tree, image.directory)


def settle_directory(tree: Tree, directory: tuple[str, ...]) -> None:
    """See that what was named, or lost its name, in a directory is so on the disk."""
    for depth in range(len(directory), 0, -1):
        with suppress(FileNotFoundError):
            os.fsync(tree.directory(*directory[:depth]))


def _further_names(tree: Tree, image: Image) -> Iterator[tuple[tuple[str, ...], str]]:
    """The other names of ours that this very file has: directories and names."""
    stamp = image.ours()
    top = image.directory[: 1 if image.directory[:1] == layout.VOLUMES else 2]
    ending = f"~{stamp.id}.img"
    for parts, directory, file in files(tree, top):
        mine = file.endswith(ending) and (parts, file) != (image.directory, image.file)
        if mine and has_name(image, directory, file):
            yield parts, file
    temporary = tree.directory(*layout.TEMPORARY)
    for file in tree.list_names(*layout.TEMPORARY):
        if file.startswith(f"{stamp.id}.") and has_name(image, temporary, file):
            yield layout.TEMPORARY, file


def has_name(image: Image, directory: int, file: str) -> bool:
    """Whether this name in a directory is the image's very file."""
    try:
        there = os.stat(file, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, image.status)


def _present(tree: Tree, image: Image) -> Image | None:
    """The image read anew, now that it is locked; None if its path holds another file."""
    if not has_name(image, tree.directory(*image.directory), image.file):
        return None
    stamp = read_stamp(
        tree, image.descriptor, image.ours().id, tree.where(image.directory, image.file)
    )
    return replace(image, status=os.fstat(image.descriptor), stamp=stamp)
