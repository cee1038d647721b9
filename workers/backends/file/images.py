"""Published images: reading and finding them.

What may not be looked at is raised; it is never taken for foreign, nor for absent.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from orchestrator.domain.errors import (
    AlreadyExists,
    BackendBusy,
    BackendError,
    Conflict,
    UnknownSnapshot,
    UnknownVolume,
)
from workers.backends.base.files import look_at_file, open_directory, open_file
from workers.backends.base.references import SnapshotRef, VolumeRef, check_id
from workers.backends.file import layout
from workers.backends.file.stamps import Stamp, borne, read_stamp
from workers.backends.file.tree import LOCK_LOOK, LOCK_WAIT, Tree

_BLOCK = 512  # what st_blocks counts, whatever the file system's own blocks are
#: How often all images are looked through again because one got another name meanwhile.
_TRIES = 5
_ANY_ID = re.compile(r"[0-9a-f]{32}\.img")
#: Not to open an image, only to look at it: that needs no lock and disturbs no lease.
LOOK = os.O_PATH


@dataclass(frozen=True, kw_only=True)
class Image:
    """A file where images are kept, open if it is a regular one."""

    directory: tuple[str, ...]
    file: str
    #: What the path says; for a file that is not ours, the path itself.
    name: str
    status: os.stat_result
    #: -1: not a regular file.
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
    """Every file below ``top``, each closed again when the next is asked for.

    A file that has two names of ours, in the middle of a rename, comes once. Who changes names
    below ``top`` makes a list first.
    """
    vanished: set[str] = set()
    yield from _walk(tree, top, vanished)
    if vanished:
        # Given another name just now perhaps, where this walk had been before.
        yield from _walk(tree, top, set(), frozenset(vanished))


def _walk(
    tree: Tree, top: tuple[str, ...], vanished: set[str], only: frozenset[str] | None = None
) -> Iterator[Image]:
    twice: set[tuple[int, int]] = set()
    for parts, directory, file in files(tree, top):
        ending = file.rpartition("~")[2]
        if only is not None and ending not in only:
            continue
        try:
            image = read_image(tree, parts, directory, file, top)
        except FileNotFoundError:
            vanished.add(ending)
            continue
        try:
            vanished.discard(ending)
            if image.stamp is not None and image.status.st_nlink > 1:
                this = (image.status.st_dev, image.status.st_ino)
                if this in twice:
                    continue
                twice.add(this)
            yield image
        finally:
            close(image)


@contextmanager
def found(
    tree: Tree, ref: VolumeRef | SnapshotRef, flags: int = LOOK, *, anywhere: bool = True
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
        image = search(tree, place.id, top, flags)
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


def search(tree: Tree, object_id: str, top: tuple[str, ...], flags: int = LOOK) -> Image | None:
    """The image with this id under whatever name below ``top``, open; None if there is none."""
    ending = f"~{object_id}.img"
    for _ in range(_TRIES):
        vanished = False
        for parts, directory, file in files(tree, top):
            if file.endswith(ending):
                try:
                    image = read_image(tree, parts, directory, file, top, flags)
                except FileNotFoundError:
                    vanished = True
                    continue
                if image.stamp is not None:
                    return image
                close(image)
        if not vanished:
            return None
    raise BackendBusy(f"the image {ending} is given other names again and again")


def snapshots_of(volume: VolumeRef) -> tuple[str, ...]:
    """The directory of a volume's snapshots."""
    return (*layout.SNAPSHOTS, check_id(volume.id))


def read_image(
    tree: Tree,
    parts: tuple[str, ...],
    directory: int,
    file: str,
    top: tuple[str, ...],
    flags: int = LOOK,
) -> Image:
    """What a file is. Raises `FileNotFoundError` if it is gone, and what forbids to look."""
    raw = "/".join((*parts[len(top) :], file)).encode(errors="surrogateescape")
    name = raw.decode(errors="backslashreplace")
    try:
        descriptor = _open(directory, file, flags)
        if descriptor is None:
            status = os.stat(file, dir_fd=directory, follow_symlinks=False)
            return Image(directory=parts, file=file, name=name, status=status)
    except OSError as error:
        error.filename = tree.where(parts, file)
        raise
    try:
        status = os.fstat(descriptor)
        opened = Image(directory=parts, file=file, name=name, status=status, descriptor=descriptor)
        # Below a directory of its own the rest of a name is not a name's beginning.
        chunks = tuple(part for part in parts if layout.is_continued(part))
        named = layout.read_place(chunks, file)
        if named is None:
            return opened
        where = tree.where(parts, file)
        stamp = read_stamp(tree, descriptor, named[1], where)
        if stamp is None or _is_copy(opened, named[0], stamp):
            return opened
        return replace(opened, name=named[0], stamp=stamp)
    except BaseException:
        os.close(descriptor)
        raise


def borne_elsewhere(tree: Tree, image: Image) -> str | None:
    """The id on the stamp of a file that is not in that one's place; None if it bears none."""
    if image.descriptor < 0:
        return None
    # What cannot be read, or is no stamp, says nothing about a file that is not ours.
    with suppress(BackendError, OSError):
        stamp = borne(tree, image.descriptor, tree.where(image.directory, image.file))
        return None if stamp is None else stamp.id
    return None


def close(image: Image) -> None:
    """Close the image's descriptor, and so give up its lock."""
    if image.descriptor >= 0:
        os.close(image.descriptor)


def refuse_taken(tree: Tree, place: layout.Place, *, besides: str | None = None) -> None:
    """`AlreadyExists` if an image with this name is there, whatever its id, but ``besides``."""
    for file in tree.list_names(*place.directory):
        taken = file.startswith(place.prefix) and _ANY_ID.fullmatch(file, len(place.prefix))
        if taken and file != besides:
            raise AlreadyExists(f"{'/'.join((*place.directory, file))} already has this name")


def drop_empty(tree: Tree, directory: tuple[str, ...]) -> None:
    """Remove the directories that hold the rest of a long name, as far as they are empty,
    and those of a volume without snapshots."""
    keep = layout.permanent(directory)
    if len(directory) > keep:
        with tree.names_locked(layout.lane_of_directory(directory)):
            tree.drop_directories(directory, keep)


def files(tree: Tree, top: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int, str]]:
    """Every file below ``top`` with its directory and that one's descriptor."""
    try:
        # A descriptor of the walk's own: the tree may close its own under it.
        above = tree.open_anew(*top)
    except FileNotFoundError:
        tree.directory(*top[:1])  # what is always there is
        return
    try:
        yield from _files_in(tree, above, top)
    finally:
        os.close(above)


def _files_in(
    tree: Tree, above: int, parts: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], int, str]]:
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
                    continue  # only empty ones are removed
                except OSError as error:
                    error.filename = tree.where(parts, entry.name)
                    raise
                try:
                    yield from _files_in(tree, below, (*parts, entry.name))
                finally:
                    os.close(below)


def _at(tree: Tree, place: layout.Place, top: tuple[str, ...], flags: int) -> Image | None:
    try:
        directory = tree.directory(*place.directory)
        return read_image(tree, place.directory, directory, place.file, top, flags)
    except FileNotFoundError:
        return None


def _open(directory: int, file: str, flags: int) -> int | None:
    """A descriptor of a regular file; None if something else bears the name."""
    if flags == LOOK:
        return look_at_file(directory, file)
    end = time.monotonic() + LOCK_WAIT
    while True:
        try:
            return open_file(directory, file, flags)
        except BlockingIOError:
            # A lease: another call is at work on it, and told that somebody waits.
            if time.monotonic() >= end:
                raise BackendBusy(f"another call is at work on {file}") from None
        time.sleep(LOCK_LOOK)


def _is_copy(image: Image, name: str, stamp: Stamp) -> bool:
    """Whether a file that bears a stamp of ours was copied from the one it was written for.

    Where the whole backend was copied, all of them were, and stand in their places.
    """
    if stamp.inode is None or stamp.inode == image.status.st_ino:
        return False
    if image.directory[:1] == layout.VOLUMES:
        place = layout.volume_place(name, stamp.id)
    else:
        place = layout.snapshot_place(name, stamp.id, image.directory[1])
    return stamp.name != name or place.directory != image.directory
