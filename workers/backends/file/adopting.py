"""Adopting images: those that somebody else put there, and those whose stamp nobody knows.

Snapshots come first and the image last, each with its new stamp before its new name: an
adoption that was interrupted is recognised by the stamp, and goes on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from orchestrator.domain.errors import Conflict, UnknownVolume
from workers.backends.file import layout
from workers.backends.file.facts import present_facts
from workers.backends.file.holding import refuse_late, settle, settle_directory
from workers.backends.file.images import (
    Image,
    close,
    drop_empty,
    found,
    read_image,
    refuse_taken,
    search,
    snapshots_of,
    walk,
)
from workers.backends.file.making import new_stamp
from workers.backends.file.stamps import (
    ATTRIBUTE,
    Stamp,
    borne,
    drop_stamp,
    read_stamp,
    write_stamp,
)
from workers.backends.file.tree import Tree, lock_file
from workers.backends.file.uses import alone
from workers.backends.interface import Call, VolumeFacts, VolumeRef, adopted_id, check_id
from workers.files import rename_without_replacing


def adopt_volume(tree: Tree, volume: VolumeRef, instead_of: str | None, call: Call) -> VolumeFacts:
    """The volume, stamped with its id and under its name, whoever made it."""
    with found(tree, volume, anywhere=False) as there:
        if there is not None:
            refuse_late(tree, there.ours(), call)
            settle(tree, there)
            settle_directory(tree, snapshots_of(volume))
            return present_facts(there)
    with _candidate(tree, volume) as image:
        if image.descriptor < 0:
            raise Conflict(f"{image.path} is no file that can be a volume")
        lock_file(image.descriptor, f"another call is changing {image.name}")
        before = _stamp_before(tree, image, volume, instead_of)
        if image.status.st_nlink > 1:
            raise Conflict(
                f"{image.path} has {image.status.st_nlink} names (hard links), so that a change of "
                "it would change them, too: leave it one, or adopt a copy"
            )
        if image.status.st_size == 0:
            raise Conflict(f"{image.path} is empty: a volume has one byte at least")
        with alone(image):
            call.checkpoint()
            if before is not None and instead_of is not None:
                _take_snapshots(tree, volume, instead_of, call)
            stamp = replace(
                before or new_stamp(tree, volume, call),
                id=volume.id,
                name=volume.name,
                job=call.job_id,
                installation=tree.installation,
                fence=call.fence,
            )
            _name(tree, image, layout.volume_place(volume.name, volume.id), stamp)
            if instead_of is not None:
                drop_stamp(tree, instead_of)
            return present_facts(replace(image, name=volume.name), stamp)


def _stamp_before(
    tree: Tree, image: Image, volume: VolumeRef, instead_of: str | None
) -> Stamp | None:
    """The stamp of ours that the file bears, whatever its name; `Conflict` if it may not be
    replaced."""
    ids = (volume.id,) if instead_of is None else (volume.id, instead_of)
    where = tree.where(image.directory, image.file)
    before = image.stamp or borne(tree, image.descriptor, where, *ids)
    if before is None:
        return None
    if before.id not in ids:
        raise Conflict(
            f"{image.path} bears the stamp of volume {before.name} ({before.id}) already. If it is "
            "a copy of that one and shall be a volume of its own, take the stamp away: "
            f"'setfattr -x {ATTRIBUTE} {where}'",
            stamp=before.id,
        )
    if image.stamp is None and before.id == instead_of:
        # Another file bears it where it belongs: this one is a copy.
        original = search(tree, before.id, layout.VOLUMES)
        if original is not None:
            close(original)
            raise Conflict(
                f"{image.path} is a copy of {original.path}, whose stamp it bears: take that away "
                f"('setfattr -x {ATTRIBUTE} {where}') and adopt it as a volume of its own",
                stamp=before.id,
            )
    return before


@contextmanager
def _candidate(tree: Tree, volume: VolumeRef) -> Iterator[Image]:
    """What the name means: an image of that name with another id, or the file of that path."""
    image = _named(tree, volume) or _at_path(tree, volume.name)
    if image is None:
        raise UnknownVolume(f"backend {tree.backend} has no volume {volume.name}")
    try:
        yield image
    finally:
        close(image)


def _named(tree: Tree, volume: VolumeRef) -> Image | None:
    place = layout.volume_place(volume.name, volume.id)
    for file in tree.list_names(*place.directory):
        if not file.startswith(place.prefix):
            continue
        image = _read(tree, place.directory, file)
        if image is None:
            continue
        # One that bears the new stamp already, under its old name, was about to be adopted.
        where = tree.where(image.directory, image.file)
        ours = image.stamp is not None and image.stamp.name == volume.name
        if ours or (
            image.descriptor >= 0
            and read_stamp(tree, image.descriptor, volume.id, where) is not None
        ):
            return image
        close(image)
    return None


def _at_path(tree: Tree, name: str) -> Image | None:
    """The file that is listed under this name because it bears no stamp of ours."""
    *above, file = name.split("/")
    directory = (*layout.VOLUMES, *above)
    image = _read(tree, directory, file) if layout.holds_volumes(directory) else None
    if image is None or (image.name == name and image.stamp is None):
        return image
    close(image)
    return None


def _read(tree: Tree, directory: tuple[str, ...], file: str) -> Image | None:
    try:
        above = tree.directory(*directory)
        return read_image(tree, directory, above, file, layout.VOLUMES, os.O_RDWR)
    except (FileNotFoundError, NotADirectoryError):
        return None


@dataclass(frozen=True)
class _Found:
    directory: tuple[str, ...]
    file: str
    stamp: Stamp


def _take_snapshots(tree: Tree, volume: VolumeRef, old_id: str, call: Call) -> None:
    """Give the volume the snapshots that bear stamps of ours and were of the old id.

    Their order stays the storage's own.
    """
    old = snapshots_of(VolumeRef(check_id(old_id), volume.name))
    # All are found before the first gets another name.
    there = [
        _Found(image.directory, image.file, stamp)
        for image in walk(tree, old)
        if (stamp := image.stamp or _interrupted(tree, image, volume)) is not None
    ]
    for one in there:
        stamp = one.stamp
        new_id = adopted_id(volume.id, stamp.name)
        place = layout.snapshot_place(stamp.name, new_id, volume.id)
        call.checkpoint()
        renewed = replace(
            stamp, id=new_id, volume=volume.id, installation=tree.installation, fence=call.fence
        )
        # That it is gone now is no answer: nobody else has any business with it.
        image = read_image(
            tree, one.directory, tree.directory(*one.directory), one.file, old, os.O_RDWR
        )
        try:
            with alone(image):
                _name(tree, image, place, renewed)
        finally:
            close(image)
        if stamp.id != new_id:
            drop_stamp(tree, stamp.id)
    # An earlier attempt may have failed in just this.
    settle_directory(tree, snapshots_of(volume))


def _interrupted(tree: Tree, image: Image, volume: VolumeRef) -> Stamp | None:
    """The stamp of a snapshot that has its new one, and not yet its new name."""
    if image.descriptor < 0:
        return None
    prefix, _, _ = image.file.rpartition("~")
    name = layout.unescape(prefix)
    if name is None:
        return None
    where = tree.where(image.directory, image.file)
    return read_stamp(tree, image.descriptor, adopted_id(volume.id, name), where)


def _name(tree: Tree, image: Image, place: layout.Place, stamp: Stamp) -> None:
    """Give a file its stamp and then its name, durably; nothing is replaced."""
    old = tree.directory(*image.directory)
    with tree.names_locked(layout.lane_of_directory(place.directory)):
        new = tree.make_directory(*place.directory)
        refuse_taken(tree, place, besides=image.file if old == new else None)
        write_stamp(tree, image.descriptor, stamp)
        rename_without_replacing(old, image.file, new, place.file)
    os.fsync(new)
    os.fsync(old)
    drop_empty(tree, image.directory)
