"""Attaching images as loop devices, and detaching them, where nobody else uses them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress

from orchestrator.domain.errors import Conflict, InUse
from workers.backends.base import blockdevices
from workers.backends.file import loopcontrol, loops
from workers.backends.file.images import Image
from workers.backends.file.tree import Tree
from workers.backends.file.uses import alone, refuse_users


def attach_image(tree: Tree, image: Image, *, read_only: bool) -> loops.Loop:
    """The device of a held image, verified; the one it has, if it has one.

    `InUse` if somebody else uses it by its file or by a device of their own.
    """
    there = loops.loops_of(image.status, image.file)
    for loop in there:
        if loop.read_only != read_only or not loop.whole:
            part = "" if loop.whole else "in part "
            raise Conflict(
                f"{image.name} is attached {part}read-{'only' if loop.read_only else 'write'} as "
                f"{loop.path}: detach it first"
            )
        if not loop.ours:
            loopcontrol.refuse_used(loop)
    if not there:
        with alone(image):
            pass
        return _make(tree, image, read_only=read_only)
    loop = there[0]
    # Each of these takes milliseconds, and most attach what is attached.
    if loop.autoclear:
        loopcontrol.keep(loop)
    if blockdevices.size_of(loop.device) != image.status.st_size:
        loopcontrol.refresh(loop)
    loopcontrol.verify(loop, image.status.st_size)
    return loop


def detach_image(tree: Tree, image: Image) -> None:
    """Take a held image's devices away; `InUse` if somebody uses one of them, or the file."""
    there = loops.loops_of(image.status, image.file)
    refuse_left(tree, image.ours().id, apart_from=there)
    if there:
        refuse_users(image)
    taken = []
    for loop in there:
        loopcontrol.detach(loop, image.status)
        taken.append(loop)
    try:
        # A device keeps its image open itself: whom this worker does not see shows only now.
        with alone(image):
            pass
    except InUse:
        for loop in taken:
            if loop.whole:
                with suppress(OSError):
                    _make(tree, image, read_only=loop.read_only, number=loop.number)
        raise


def refuse_left(tree: Tree, volume_id: str, apart_from: Sequence[loops.Loop] = ()) -> None:
    """`InUse` if a device of a volume holds an image that is no longer in its place.

    Moved away or deleted: the device may be the last that has it, and somebody may use it.
    """
    for loop in loops.labelled(volume_id, os.fstat(tree.root).st_dev):
        if loop not in apart_from:
            raise InUse(
                f"{loop.path} holds an image of the volume that is no longer in its place (moved "
                "away, deleted or replaced), and is perhaps all that is left of it: put the image "
                f"back, or save what is on the device; 'losetup --detach {loop.path}' gives it up"
            )


def _make(tree: Tree, image: Image, *, read_only: bool, number: int | None = None) -> loops.Loop:
    descriptor = os.open(
        image.file,
        (os.O_RDONLY if read_only else os.O_RDWR) | os.O_NOFOLLOW | os.O_CLOEXEC,
        dir_fd=tree.directory(*image.directory),
    )
    try:
        _refuse_changed(image, os.fstat(descriptor))
        return loopcontrol.attach(descriptor, image.ours().id, read_only=read_only, number=number)
    finally:
        os.close(descriptor)


def _refuse_changed(image: Image, found: os.stat_result) -> None:
    """`Conflict` unless what was opened is the held image, as large as it was when it was looked
    at: its device would have another size, or other contents."""
    held = image.status
    if (found.st_dev, found.st_ino) != (held.st_dev, held.st_ino):
        raise Conflict(
            f"another file took the place of {image.name} just now: nothing was attached"
        )
    if found.st_size != held.st_size:
        raise Conflict(
            f"somebody changed the size of {image.name} just now, from {held.st_size} to "
            f"{found.st_size} bytes: nothing was attached"
        )
