"""Reading the contents of images as they are at one moment."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from orchestrator.domain.errors import InUse, InvalidSize
from workers.backends.base import blockdevices
from workers.backends.base.call import Call
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.backends.file import copying, layout, loops
from workers.backends.file.building import Built
from workers.backends.file.holding import refuse_drift, refuse_writable
from workers.backends.file.images import Image, found, needed
from workers.backends.file.tree import Tree, lock_file
from workers.backends.file.uses import refuse_users, unwritten


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
    with found(tree, source, os.O_RDONLY) as there:
        image = needed(tree, there, source)
        refuse_writable(tree, image)
        refuse_drift(tree, image, source)
        if size is not None and size < image.status.st_size:
            raise InvalidSize(
                f"a clone of {source.name} has at least its {image.status.st_size} bytes, "
                f"not {size}"
            )
        _flush(image)
        if not copying.share(image.descriptor, built.descriptor):
            with _watched(image) as watch:
                copying.copy(image.descriptor, built.descriptor, call, watch.step)
                watch.end()
        if size is not None:
            os.ftruncate(built.descriptor, size)
        os.fsync(built.descriptor)


@dataclass(frozen=True)
class Watch:
    """Raises `InUse` if an image is, or may have been, written to since."""

    #: To be called between parts.
    step: Callable[[], None]
    #: To be called once all was read.
    end: Callable[[], None]


@contextmanager
def still(tree: Tree, image: Image) -> Iterator[tuple[int, Watch]]:
    """A descriptor through which an image can be read as it is at one moment."""
    _flush(image)
    with _unseen(tree) as kept:
        if kept is not None and copying.share(image.descriptor, kept):
            yield kept, Watch(_nothing, _nothing)
            return
    with _watched(image) as watch:
        yield image.descriptor, watch


@contextmanager
def _unseen(tree: Tree) -> Iterator[int | None]:
    """A file without a name; None where the file system has no such files."""
    try:
        kept = os.open(
            ".",
            os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC,
            0o600,
            dir_fd=tree.directory(*layout.TEMPORARY),
        )
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        yield None
        return
    try:
        yield kept
    finally:
        os.close(kept)


@contextmanager
def _watched(image: Image) -> Iterator[Watch]:
    lock_file(image.descriptor, f"another call is changing {image.name}", shared=True)
    written = _written(image)
    if not written:
        with unwritten(image) as unbroken:
            yield Watch(unbroken, unbroken)
        return
    # Its devices hold it open, so the kernel gives no lease on it: what they write is counted,
    # and what others do shows in the file's times.
    refuse_users(image, writers=True)
    before = {loop: blockdevices.written(loop.device) for loop in written}
    times = _times(image)

    def check() -> None:
        for loop, counters in before.items():
            try:
                blockdevices.flush(loop.path)
            except PermissionError:
                counters = None
            if counters is None or blockdevices.written(loop.device) != counters:
                raise _torn(image, f"attached as {loop.path}")
        if _times(image) != times:
            raise _torn(image, "open somewhere")

    yield Watch(_nothing, check)


def _written(image: Image) -> list[loops.Loop]:
    """The devices through which the image may be written to just now."""
    return [loop for loop in loops.loops_of(image.status, image.file) if not loop.read_only]


def _flush(image: Image) -> None:
    for loop in _written(image):
        # Without the right to, what is taken is what a power cut would have left.
        with suppress(PermissionError):
            blockdevices.flush(loop.path)


def _times(image: Image) -> tuple[int, int]:
    status = os.fstat(image.descriptor)
    return status.st_size, status.st_mtime_ns


def _torn(image: Image, how: str) -> InUse:
    return InUse(
        f"{image.name} is {how} and was written to while it was copied, or that cannot be told; "
        "this file system cannot share blocks. Stop what uses it, or detach it, or keep the "
        "backend on XFS or btrfs"
    )


def _nothing() -> None:
    pass
