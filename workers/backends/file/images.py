"""Published images: finding, locking and removing them."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from orchestrator.domain.errors import (
    AlreadyExists,
    BackendBusy,
    Conflict,
    UnknownSnapshot,
    UnknownVolume,
)
from workers.backends.file import layout
from workers.backends.file.stamps import Stamp, drop_stamp, read_stamp, write_stamp
from workers.backends.file.tree import Tree, lock_file
from workers.backends.interface import Call, SnapshotRef, VolumeRef, check_id
from workers.files import open_directory, open_file

_BLOCK = 512  # what st_blocks counts, whatever the file system's own blocks are
#: How often an image is looked for again that was exchanged between finding and locking.
_TRIES = 10
_ANY_ID = re.compile(r"[0-9a-f]{32}\.img")


@dataclass(frozen=True, kw_only=True)
class Image:
    """A file where images are kept, open if it is a regular one."""

    directory: tuple[str, ...]
    file: str
    #: What the path says; for a file that is not ours, the path itself.
    name: str
    status: os.stat_result
    #: -1: not a regular file, or not to be opened by us.
    descriptor: int = -1
    #: None: not ours.
    stamp: Stamp | None = None

    @property
    def used_bytes(self) -> int:
        return self.status.st_blocks * _BLOCK

    @property
    def path(self) -> str:
        return "/".join((*self.directory, self.file))

    def ours(self) -> Stamp:
        """The stamp, or `Conflict`: what bears none is never touched."""
        if self.stamp is None:
            raise Conflict(
                f"{self.path} stands where the image of {self.name} belongs and does not bear its "
                "stamp: somebody else put it there, so move it away"
            )
        return self.stamp


def walk(tree: Tree, top: tuple[str, ...]) -> Iterator[Image]:
    """Every file below ``top``, each closed again when the next is asked for."""
    for parts, directory, file in _files(tree, top):
        try:
            image = read_image(tree, parts, directory, file, top, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            yield image
        finally:
            close(image)


@contextmanager
def found(
    tree: Tree, ref: VolumeRef | SnapshotRef, flags: int = os.O_RDONLY, *, anywhere: bool = True
) -> Iterator[Image | None]:
    """The image of a volume or snapshot, open for the block; None if there is none.

    It is looked for where its name says and then, unless ``anywhere`` is false, under
    whatever name; that takes the longer the more volumes there are.
    """
    if isinstance(ref, SnapshotRef):
        top = snapshots_of(ref.volume)
        place = layout.snapshot_place(ref.name, ref.id, ref.volume.id)
    else:
        top = layout.VOLUMES
        place = layout.volume_place(ref.name, ref.id)
    image = _at(tree, place, top, flags)
    if image is None and anywhere:
        image = _search(tree, place.id, top, flags)
    try:
        yield image
    finally:
        if image is not None:
            close(image)


def needed(tree: Tree, image: Image | None, ref: VolumeRef | SnapshotRef) -> Image:
    """The image itself, or an error that says what is missing."""
    if image is not None:
        image.ours()
        return image
    if isinstance(ref, SnapshotRef):
        raise UnknownSnapshot(f"volume {ref.volume.name} has no snapshot {ref.name}")
    raise UnknownVolume(f"backend {tree.backend} has no volume {ref.name}")


@contextmanager
def changing(tree: Tree, ref: VolumeRef | SnapshotRef, call: Call) -> Iterator[Image]:
    """The image as it now is, open for writing and locked for the block.

    Raises `NotFound`, and what `held` raises.
    """
    for _ in range(_TRIES):
        with (
            found(tree, ref, os.O_RDWR) as image,
            held(tree, needed(tree, image, ref), call) as present,
        ):
            if present is not None:
                yield present
                return
    raise BackendBusy(f"the image of {ref.name} is exchanged again and again")


def snapshots_of(volume: VolumeRef) -> tuple[str, ...]:
    """The directory of a volume's snapshots."""
    return (*layout.SNAPSHOTS, check_id(volume.id))


def read_image(
    tree: Tree, parts: tuple[str, ...], directory: int, file: str, top: tuple[str, ...], flags: int
) -> Image:
    """What a file is; `FileNotFoundError` if it is gone."""
    raw = "/".join((*parts[len(top) :], file)).encode(errors="surrogateescape")
    image = Image(
        directory=parts,
        file=file,
        name=raw.decode(errors="backslashreplace"),
        status=os.stat(file, dir_fd=directory, follow_symlinks=False),
    )
    try:
        descriptor = open_file(directory, file, flags)
    except PermissionError:
        return image
    if descriptor is None:
        return image
    try:
        opened = replace(image, descriptor=descriptor, status=os.fstat(descriptor))
        # Below a directory of its own the rest of a name is not a name's beginning.
        chunks = tuple(part for part in parts if layout.is_continued(part))
        named = layout.read_place(chunks, file)
        stamp = None if named is None else read_stamp(tree, descriptor, named[1])
        return (
            opened
            if named is None or stamp is None
            else replace(opened, name=named[0], stamp=stamp)
        )
    except BaseException:
        os.close(descriptor)
        raise


def close(image: Image) -> None:
    """Close the image's descriptor, and so give up its lock."""
    if image.descriptor >= 0:
        os.close(image.descriptor)


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
            stamp = refuse_late(tree, present.ours(), call)
            if stamp != present.stamp:
                write_stamp(tree, present.descriptor, stamp, durable=False)
                present = replace(present, stamp=stamp)
        yield present
    finally:
        fcntl.flock(image.descriptor, fcntl.LOCK_UN)


def refuse_late(tree: Tree, stamp: Stamp, call: Call) -> Stamp:
    """The stamp with this call's fence, or `Conflict` if it bears a larger one.

    Fences of two databases do not compare: an image that another one adopted starts anew.
    """
    if stamp.installation == tree.installation and stamp.fence > call.fence:
        raise Conflict(
            f"a later claim ({stamp.fence}) has already changed {stamp.name}: this one "
            f"({call.fence}) is too late",
            fence=stamp.fence,
        )
    return replace(stamp, installation=tree.installation, fence=call.fence)


def refuse_taken(tree: Tree, place: layout.Place, *, besides: str | None = None) -> None:
    """`AlreadyExists` if an image with this name is there, whatever its id, but ``besides``."""
    for file in tree.list_names(*place.directory):
        taken = file.startswith(place.prefix) and _ANY_ID.fullmatch(file, len(place.prefix))
        if taken and file != besides:
            raise AlreadyExists(f"{'/'.join((*place.directory, file))} already has this name")


def unlink(tree: Tree, image: Image) -> None:
    """Remove a held image durably, its stamp, and directories that only it needed."""
    directory = tree.directory(*image.directory)
    stamp = image.ours()
    os.unlink(image.file, dir_fd=directory)
    os.fsync(directory)
    drop_stamp(tree, stamp.id)
    drop_empty(tree, image.directory)


def drop_empty(tree: Tree, directory: tuple[str, ...]) -> None:
    """Remove the directories that hold the rest of a long name, as far as they are empty,
    and those of a volume without snapshots."""
    keep = layout.permanent(directory)
    if len(directory) > keep:
        with tree.names_locked(layout.lane_of_directory(directory)):
            tree.drop_directories(directory, keep)


def _at(tree: Tree, place: layout.Place, top: tuple[str, ...], flags: int) -> Image | None:
    try:
        directory = tree.directory(*place.directory)
        return read_image(tree, place.directory, directory, place.file, top, flags)
    except FileNotFoundError:
        return None


def _search(tree: Tree, object_id: str, top: tuple[str, ...], flags: int) -> Image | None:
    ending = f"~{object_id}.img"
    for parts, directory, file in _files(tree, top):
        if file.endswith(ending):
            try:
                image = read_image(tree, parts, directory, file, top, flags)
            except FileNotFoundError:
                continue
            if image.stamp is not None:
                return image
            close(image)
    return None


def _present(tree: Tree, image: Image) -> Image | None:
    """The image read anew, now that it is locked; None if its path holds another file."""
    try:
        there = os.stat(image.file, dir_fd=tree.directory(*image.directory), follow_symlinks=False)
    except FileNotFoundError:
        return None
    status = os.fstat(image.descriptor)
    if not os.path.samestat(there, status):
        return None
    stamp = read_stamp(tree, image.descriptor, image.ours().id)
    return replace(image, status=status, stamp=stamp)


def _files(tree: Tree, top: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int, str]]:
    """Every file below ``top`` with its directory and that one's descriptor."""
    try:
        above = tree.directory(*top)
    except FileNotFoundError:
        return
    yield from _files_in(above, top)


def _files_in(above: int, parts: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int, str]]:
    # Lanes stand directly below the volumes; elsewhere only the rest of long names does.
    lanes = parts == layout.VOLUMES
    with os.scandir(above) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield parts, above, entry.name
            elif layout.is_continued(entry.name) or (lanes and layout.is_lane(entry.name)):
                try:
                    below = open_directory(above, entry.name)
                except FileNotFoundError:
                    continue
                try:
                    yield from _files_in(below, (*parts, entry.name))
                finally:
                    os.close(below)
