"""Building images out of sight and publishing them in one step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from orchestrator import failpoints
from orchestrator.domain.errors import Conflict
from workers.backends.base.call import Call
from workers.backends.base.files import open_file, rename_without_replacing
from workers.backends.file import copying, layout
from workers.backends.file.holding import drop_further_names
from workers.backends.file.images import Image, refuse_taken
from workers.backends.file.stamps import Stamp, write_stamp
from workers.backends.file.tree import Tree

_IMAGE = ".img"


@dataclass(frozen=True)
class Built:
    """An image that nobody sees yet."""

    descriptor: int
    file: str


@contextmanager
def building(tree: Tree, object_id: str, call: Call) -> Iterator[Built]:
    """A new, empty image under a temporary name, gone after the block unless published."""
    clear(tree, object_id, call)
    temporary = tree.directory(*layout.TEMPORARY)
    file = f"{object_id}.{call.fence}{_IMAGE}"
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(file, flags, 0o600, dir_fd=temporary)
    try:
        yield Built(descriptor, file)
    except BaseException:
        # Whatever went wrong is the news; what cannot be removed now, the next attempt removes.
        with suppress(OSError):
            os.unlink(file, dir_fd=temporary)
        raise
    finally:
        os.close(descriptor)


def publish(tree: Tree, built: Built, place: layout.Place, stamp: Stamp, call: Call) -> None:
    """Give what was built its stamp and its name, durably; nothing is ever replaced."""
    call.checkpoint()
    with tree.names_locked(layout.lane_of_directory(place.directory)):
        directory = tree.make_directory(*place.directory)
        refuse_taken(tree, place)
        write_stamp(tree, built.descriptor, stamp)
        temporary = tree.directory(*layout.TEMPORARY)
        failpoints.reach("driver.before_publish")
        try:
            rename_without_replacing(temporary, built.file, directory, place.file)
        except FileNotFoundError:
            raise _superseded(stamp) from None
        failpoints.reach("driver.after_publish")
    os.fsync(directory)


def exchange(
    tree: Tree, built: Built, image: Image, stamp: Stamp, still: Callable[[], None]
) -> None:
    """Put what was built in the place of a held image, durably, and of all its names.

    ``still`` raises if somebody has begun to open that image meanwhile.
    """
    drop_further_names(tree, image)
    directory = tree.directory(*image.directory)
    write_stamp(tree, built.descriptor, stamp)
    temporary = tree.directory(*layout.TEMPORARY)
    failpoints.reach("driver.before_publish")
    still()
    try:
        os.replace(built.file, image.file, src_dir_fd=temporary, dst_dir_fd=directory)
    except FileNotFoundError:
        raise _superseded(stamp) from None
    failpoints.reach("driver.after_publish")
    os.fsync(directory)


def clear(tree: Tree, object_id: str, call: Call, *, wipe: bool = False) -> None:
    """Remove what earlier claims were building for this id: what they publish late then fails.

    With ``wipe`` it is overwritten first. `Conflict` if a later claim is building, for then
    this one is late.
    """
    beginning = f"{object_id}."
    for file in tree.list_names(*layout.TEMPORARY):
        if not file.startswith(beginning):
            continue
        fence = int(file.split(".")[1])
        if fence > call.fence:
            raise Conflict(
                f"a later claim ({fence}) is at work on this already: this one ({call.fence}) "
                "is too late",
                fence=fence,
            )
        temporary = tree.directory(*layout.TEMPORARY)
        with suppress(FileNotFoundError):
            if wipe and file.endswith(_IMAGE):
                _wipe(temporary, file, call)
            os.unlink(file, dir_fd=temporary)


def _wipe(directory: int, file: str, call: Call) -> None:
    built = open_file(directory, file, os.O_RDWR)
    if built is None:
        return
    try:
        # The file may be published, and have this name as well: that is its contents' then.
        if os.fstat(built).st_nlink > 1:
            return
        begin: int | None = 0
        size = os.fstat(built).st_size
        while begin is not None:
            call.checkpoint()
            begin = copying.wipe_step(built, begin, size)
    finally:
        os.close(built)


def _superseded(stamp: Stamp) -> Conflict:
    return Conflict(f"a later claim has taken over the work on {stamp.name}: this one is too late")
