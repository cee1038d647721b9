"""Adopting images: those that somebody else put there, and those whose stamp nobody knows.

Everything that may forbid it is asked before the first file gets another name. Then snapshots come
first and the image last, each with its new stamp before its new name: an adoption that was
interrupted is recognised by the stamps, and goes on. Until it is over the image bears its old
stamp, which tells of the ids that were to take it over: whoever adopts it finds all snapshots.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from orchestrator.domain.errors import AccessDenied, Conflict, Problem, UnknownVolume
from workers.backends.base.call import Call
from workers.backends.base.facts import VolumeFacts
from workers.backends.base.files import anew, rename_without_replacing
from workers.backends.base.references import VolumeRef, adopted_id, check_id
from workers.backends.file import layout
from workers.backends.file.facts import present_facts
from workers.backends.file.failures import translated
from workers.backends.file.holding import fenced, settle, settle_directory
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


def adopt_volume(tree: Tree, volume: VolumeRef, instead_of: str | None, call: Call) -> VolumeFacts:
    """The volume, stamped with its id and under its name, whoever made it."""
    with found(tree, volume, anywhere=False) as there:
        if there is not None:
            fenced(tree, there.ours(), call)
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
            place = layout.volume_place(volume.name, volume.id)
            stamp = replace(
                before or new_stamp(tree, volume, call),
                id=volume.id,
                name=volume.name,
                job=call.job_id,
                installation=tree.installation,
                fence=call.fence,
                heirs=(),
            )
            _ask_for_name(tree, image, place)
            taken_over = _TakenOver(tree, volume, call)
            if before is not None and instead_of is not None:
                taken_over.look(check_id(instead_of), *before.heirs)
                taken_over.ask()
                if taken_over.left and volume.id not in (before.id, *before.heirs):
                    write_stamp(
                        tree, image.descriptor, replace(before, heirs=(*before.heirs, volume.id))
                    )
            with taken_over.told():
                taken_over.take()
                _name(tree, image, place, stamp)
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
        # One that bears another stamp than its name says was about to be adopted.
        where = tree.where(image.directory, image.file)
        stamp = image.stamp
        if stamp is None and image.descriptor >= 0:
            stamp = borne(tree, image.descriptor, where, volume.id)
        if stamp is not None and stamp.name == volume.name:
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
    """A snapshot that is to have another volume."""

    top: tuple[str, ...]
    directory: tuple[str, ...]
    file: str
    name: str
    stamp: Stamp


class _TakenOver:
    """The snapshots that a volume gets: those that bear stamps of ours and were of its old ids.

    Their order stays the storage's own.
    """

    def __init__(self, tree: Tree, volume: VolumeRef, call: Call) -> None:
        self._tree, self._volume, self._call = tree, volume, call
        #: Those that have not been taken, and the names of those that have.
        self.left: list[_Found] = []
        self._taken: list[str] = []

    def look(self, *old_ids: str) -> None:
        """Find them all, before the first gets another name."""
        self._taken = self._own()
        for old_id in dict.fromkeys(old_ids):
            if old_id == self._volume.id:
                continue
            top = snapshots_of(VolumeRef(old_id, self._volume.name))
            for image in walk(self._tree, top):
                # Below a directory of its own the rest of a name is not a name's beginning.
                chunks = tuple(part for part in image.directory if layout.is_continued(part))
                named = layout.read_place(chunks, image.file)
                if named is None or image.descriptor < 0:
                    continue
                stamp = image.stamp or self._interrupted(image, named[0], old_ids)
                if stamp is not None:
                    found = _Found(top, image.directory, image.file, named[0], stamp)
                    self.left.append(found)

    def _interrupted(self, image: Image, name: str, old_ids: Sequence[str]) -> Stamp | None:
        """The stamp of a snapshot that has a newer one, and not yet its newer name."""
        where = self._tree.where(image.directory, image.file)
        for volume_id in (self._volume.id, *old_ids):
            stamp = read_stamp(self._tree, image.descriptor, adopted_id(volume_id, name), where)
            if stamp is not None:
                return stamp
        return None

    def ask(self) -> None:
        """Raise what forbids to take them."""
        if not self.left:
            return
        names = [*self._taken, *(one.name for one in self.left)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise Conflict(
                f"{self._volume.name} has two snapshots {twice!r}: move one of them away, from "
                f"{' or '.join(sorted({'/'.join(one.top) for one in self.left}))}"
            )
        _ask_for_directory(self._tree, snapshots_of(self._volume))
        for one in self.left:
            _ask_for_directory(self._tree, one.directory)
            with self._opened(one):
                pass

    def take(self) -> None:
        """Give them their new stamps and names, one after the other."""
        while self.left:
            one = self.left[0]
            new_id = adopted_id(self._volume.id, one.name)
            place = layout.snapshot_place(one.name, new_id, self._volume.id)
            self._call.checkpoint()
            renewed = replace(
                one.stamp,
                id=new_id,
                name=one.name,
                volume=self._volume.id,
                installation=self._tree.installation,
                fence=self._call.fence,
            )
            with self._opened(one) as image:
                _name(self._tree, image, place, renewed)
            self._taken.append(one.name)
            self.left.pop(0)
            if one.stamp.id != new_id:
                drop_stamp(self._tree, one.stamp.id)
        # An earlier attempt may have failed in just this.
        settle_directory(self._tree, snapshots_of(self._volume))

    @contextmanager
    def told(self) -> Iterator[None]:
        """Tell, with what ends the block before its end, which snapshots the volume has by then."""
        try:
            with translated(self._tree.backend):
                yield
        except Problem as problem:
            with suppress(Problem, OSError):
                self._taken = self._own()
            if not self._taken:
                raise
            raise type(problem)(
                f"{problem.detail}. By then {', '.join(self._taken)} of its snapshots had been "
                "taken over: adopt it again, which finishes that",
                **{**problem.facts, "snapshots_taken": self._taken},
            ) from problem

    def _own(self) -> list[str]:
        """The names of the snapshots that the volume has, the oldest first."""
        own = walk(self._tree, snapshots_of(self._volume))
        named = ((image.stamp.order, image.name) for image in own if image.stamp is not None)
        return [name for _, name in sorted(named)]

    @contextmanager
    def _opened(self, one: _Found) -> Iterator[Image]:
        """It, while nobody else has it open. That it is gone now is no answer: nobody else has any
        business with it."""
        above = self._tree.directory(*one.directory)
        image = read_image(self._tree, one.directory, above, one.file, one.top, os.O_RDWR)
        try:
            with alone(image):
                yield image
        finally:
            close(image)


def _ask_for_name(tree: Tree, image: Image, place: layout.Place) -> None:
    """Raise what forbids to give a file its name."""
    same = image.directory == place.directory
    refuse_taken(tree, place, besides=image.file if same else None)
    _ask_for_directory(tree, image.directory)
    _ask_for_directory(tree, place.directory)


def _ask_for_directory(tree: Tree, directory: tuple[str, ...]) -> None:
    """`AccessDenied` if names may not be changed in a directory, or in what it will be made in."""
    for depth in range(len(directory), 0, -1):
        try:
            descriptor = tree.directory(*directory[:depth])
        except FileNotFoundError:
            continue
        if not os.access(anew(descriptor), os.W_OK | os.X_OK):
            raise AccessDenied(
                f"backend {tree.backend}: {tree.where(directory[:depth])} may not be changed: it "
                "is mounted read-only, immutable ('lsattr -d' shows that) or not the worker's"
            )
        return


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
