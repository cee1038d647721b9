"""The `file` driver's calls, put together from images, stamps and loop devices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace

from orchestrator.domain.drivers import DriverOptions
from orchestrator.domain.errors import NotFound, UnknownVolume
from orchestrator.domain.sizes import round_up
from workers.backends.base.abilities import (
    CanAdopt,
    CanAttachReadOnly,
    CanClone,
    CanExport,
    CanGrow,
    CanHoldLease,
    CanImport,
    CanOpen,
    CanRename,
    CanRollBack,
    CanSetMetadata,
    CanSnapshot,
    CanTrim,
    CanWipe,
)
from workers.backends.base.call import Call
from workers.backends.base.driver import Driver
from workers.backends.base.facts import (
    Absent,
    Capacity,
    Contents,
    Device,
    Look,
    NotOurs,
    Removed,
    SnapshotFacts,
    VolumeFacts,
)
from workers.backends.base.references import SnapshotRef, VolumeRef, check_id
from workers.backends.base.streams import pour, read_parts
from workers.backends.file import copying, layout, loopcontrol, loops
from workers.backends.file.adopting import adopt_volume
from workers.backends.file.attaching import attach_image, detach_image, refuse_left
from workers.backends.file.building import Built, building, clear, exchange
from workers.backends.file.contents import Watch, still, take
from workers.backends.file.facts import present_facts, snapshot_facts, volume_facts
from workers.backends.file.failures import translated
from workers.backends.file.holding import changing, refuse_drift, refuse_writable, settle
from workers.backends.file.images import (
    Image,
    borne_elsewhere,
    found,
    needed,
    snapshots_of,
    walk,
)
from workers.backends.file.making import make_snapshot, make_volume
from workers.backends.file.marker import read_lease, read_marker, write_lease, write_marker
from workers.backends.file.removing import in_steps, overwrite, refuse_kept, take_away
from workers.backends.file.renaming import rename_image
from workers.backends.file.spec import FileOptions
from workers.backends.file.stamps import drop_stamp, write_stamp
from workers.backends.file.strays import find_strays
from workers.backends.file.tree import Tree
from workers.backends.file.trust import refuse_open_ways
from workers.backends.file.uses import alone

#: A page, and the largest sector a guest may ask for. Loop devices show whole sectors only,
#: so a size in between would lose its end.
GRAIN = 4096


class FileDriver(
    Driver,
    CanAdopt,
    CanAttachReadOnly,
    CanClone,
    CanExport,
    CanGrow,
    CanHoldLease,
    CanImport,
    CanOpen,
    CanRename,
    CanRollBack,
    CanSetMetadata,
    CanSnapshot,
    CanTrim,
    CanWipe,
):
    """Volumes as sparse image files in one directory, used through loop devices.

    A late call is made harmless so. An image's path carries its immutable id: a call on an
    old id never meets a newer volume of the same name. What is new is built under a name
    with the caller's fence; a later caller first removes what earlier ones were building,
    and their publishing then finds nothing to publish. Whatever changes a published image
    holds a lock on the file, and under it compares its fence with the one in the stamp: a
    smaller one is refused with `Conflict`. Wiping does so for each chunk, rolling back
    before it exchanges the file.

    What may not be looked at is raised. What others use is left alone: the kernel's lease on
    an image is had while nobody else has it open, by whatever path, device or namespace, and
    is kept while that matters. What is not as large as it is recorded is not changed.

    What it cannot fence: a create that looks at its lease for the last time, is then held
    up in the single system call that publishes, and is let go after the volume was made,
    renamed or removed by others; it leaves an image with an id that nobody uses, which an
    audit finds. A worker that is frozen while it gives an image its name keeps others from
    giving names in the same directory, one in 256: they try again until it wakes or dies. A
    device that another host has attached over a network file system is not seen. Locks reach
    as far as the file system carries them: all hosts for NFS, one host otherwise.
    """

    def __init__(self, backend: str, options: DriverOptions, installation: str) -> None:
        super().__init__(backend, options, installation)
        if not isinstance(options, FileOptions):
            raise TypeError(f"the file driver takes FileOptions, not {type(options).__name__}")
        self.path = options.path

    # -- the system as a whole ------------------------------------------------------------

    def lacking(self) -> frozenset[str]:
        return frozenset() if loops.available() else frozenset({"attach"})

    def read_identity(self) -> str | None:
        with translated(self.backend), self._directory() as tree:
            refuse_open_ways(self.backend, self.path)
            return read_marker(tree)

    def write_identity(self, identity: str, *, replace: bool = False) -> None:
        with translated(self.backend):
            if not self.path.exists() and self.path.parent.is_dir():
                refuse_open_ways(self.backend, self.path)
                self.path.mkdir(mode=0o700)
            with self._directory() as tree:
                refuse_open_ways(self.backend, self.path)
                write_marker(tree, identity, replace=replace)

    def read_lease(self) -> bytes | None:
        # Where nothing was ever set up, there is none: `read_identity` tells that.
        with translated(self.backend), self._directory() as tree:
            return read_lease(tree)

    def write_lease(self, new: bytes, expected: bytes | None) -> None:
        with translated(self.backend), self._tree() as tree:
            write_lease(tree, new, expected)

    def capacity(self) -> Capacity:
        with translated(self.backend), self._tree() as tree:
            there = os.statvfs(tree.root)
        if not there.f_blocks:  # ramfs: as large as it has to be
            return Capacity(total_bytes=None, free_bytes=None, grain_bytes=GRAIN)
        return Capacity(
            total_bytes=there.f_frsize * there.f_blocks,
            free_bytes=there.f_frsize * there.f_bavail,
            grain_bytes=GRAIN,
        )

    # -- reading --------------------------------------------------------------------------

    def list_volumes(self) -> Iterator[VolumeFacts]:
        with translated(self.backend), self._tree() as tree:
            held = loops.LoopImages()
            for image in walk(tree, layout.VOLUMES):
                facts = replace(volume_facts(image), attached=held.holds(image.status))
                yield facts if facts.id else replace(facts, bears=borne_elsewhere(tree, image))

    def inspect(self, volume: VolumeRef) -> Look:
        with translated(self.backend), self._tree() as tree, found(tree, volume) as image:
            if image is None:
                return Absent()
            return NotOurs(image.path) if image.stamp is None else volume_facts(image)

    def list_snapshots(self, volume: VolumeRef) -> list[SnapshotFacts]:
        with translated(self.backend), self._tree() as tree:
            there = [
                (image.stamp.order if image.stamp else 0, snapshot_facts(image))
                for image in walk(tree, snapshots_of(volume))
            ]
        return [facts for _, facts in sorted(there, key=lambda found: found[0])]

    def inspect_snapshot(self, snapshot: SnapshotRef) -> SnapshotFacts | Absent | NotOurs:
        with translated(self.backend), self._tree() as tree, found(tree, snapshot) as image:
            if image is None:
                return Absent()
            return NotOurs(image.path) if image.stamp is None else snapshot_facts(image)

    def list_strays(self) -> Iterator[tuple[str, SnapshotFacts]]:
        with translated(self.backend), self._tree() as tree:
            for volume_id, image in find_strays(tree):
                yield volume_id, snapshot_facts(image)

    @contextmanager
    def contents(self, of: VolumeRef | SnapshotRef, call: Call) -> Iterator[Contents]:
        with (
            translated(self.backend),
            self._tree() as tree,
            found(tree, of, os.O_RDONLY) as there,
            still(tree, self._recorded(tree, there, of)) as (descriptor, watch),
        ):
            size = os.fstat(descriptor).st_size
            yield Contents(size, self._parts(descriptor, size, watch))

    def devices(self, volume: VolumeRef) -> list[Device]:
        with translated(self.backend), self._tree() as tree, found(tree, volume) as image:
            if image is None:
                # Somebody has taken it from its place, and not from its users.
                left = loops.labelled(volume.id, os.fstat(tree.root).st_dev)
                return [Device(path=loop.path, read_only=loop.read_only) for loop in left]
            if image.stamp is None:
                return []
            return [self._device(image, loop) for loop in loops.loops_of(image.status, image.file)]

    # -- making ---------------------------------------------------------------------------

    def create(
        self, volume: VolumeRef, size_bytes: int, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        size = round_up(size_bytes, GRAIN)

        def fill(built: Built) -> None:
            os.ftruncate(built.descriptor, size)

        with translated(self.backend), self._tree() as tree:
            return make_volume(tree, volume, size, metadata, fill, call)

    def load(
        self,
        volume: VolumeRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        contents: Contents,
        call: Call,
    ) -> VolumeFacts:
        size = round_up(size_bytes, GRAIN)

        def fill(built: Built) -> None:
            os.ftruncate(built.descriptor, size)
            pour(contents, built.descriptor, size, call)
            os.fsync(built.descriptor)

        with translated(self.backend), self._tree() as tree:
            return make_volume(tree, volume, size, metadata, fill, call)

    def clone(
        self,
        volume: VolumeRef,
        source: VolumeRef | SnapshotRef,
        size_bytes: int,
        metadata: Mapping[str, str],
        call: Call,
    ) -> VolumeFacts:
        size = round_up(size_bytes, GRAIN)
        with translated(self.backend), self._tree() as tree:

            def fill(built: Built) -> None:
                take(tree, source, built, call, size=size)

            return make_volume(tree, volume, size, metadata, fill, call)

    def adopt(self, volume: VolumeRef, call: Call, *, instead_of: str | None = None) -> VolumeFacts:
        with translated(self.backend), self._tree() as tree:
            return adopt_volume(tree, volume, instead_of, call)

    def create_snapshot(self, snapshot: SnapshotRef, call: Call) -> SnapshotFacts:
        with translated(self.backend), self._tree() as tree:
            return make_snapshot(tree, snapshot, call)

    def discard(self, made: VolumeRef | SnapshotRef, call: Call) -> None:
        with translated(self.backend), self._tree() as tree:
            clear(tree, check_id(made.id), call)
            take_away(tree, made, call)
            drop_stamp(tree, made.id)

    # -- changing -------------------------------------------------------------------------

    def grow(self, volume: VolumeRef, size_bytes: int, call: Call) -> VolumeFacts:
        size = round_up(size_bytes, GRAIN)
        with (
            translated(self.backend),
            self._tree() as tree,
            changing(tree, volume, call, in_place=True) as image,
        ):
            refuse_drift(tree, image, volume, up_to=size)
            call.checkpoint()
            copying.grow(image.descriptor, size)
            os.fsync(image.descriptor)
            for loop in loops.loops_of(image.status, image.file):
                loopcontrol.refresh(loop)
            return present_facts(image)

    def set_metadata(
        self, volume: VolumeRef, metadata: Mapping[str, str], call: Call
    ) -> VolumeFacts:
        with (
            translated(self.backend),
            self._tree() as tree,
            changing(tree, volume, call) as image,
        ):
            refuse_drift(tree, image, volume)
            call.checkpoint()
            stamp = replace(image.ours(), metadata=dict(metadata))
            write_stamp(tree, image.descriptor, stamp)
            return present_facts(image, stamp)

    def rename(self, volume: VolumeRef, new_name: str, call: Call) -> VolumeFacts:
        with translated(self.backend), self._tree() as tree:
            return rename_image(tree, volume, new_name, call)

    def rollback(self, volume: VolumeRef, snapshot: SnapshotRef, call: Call) -> VolumeFacts:
        with translated(self.backend), self._tree() as tree:
            with changing(tree, volume, call, in_place=True) as image:
                if image.ours().restored_by == call.token:
                    settle(tree, image)
                    return present_facts(image)
                refuse_drift(tree, image, volume)
                with alone(image):
                    pass
            with building(tree, volume.id, call) as built:
                take(tree, snapshot, built, call)
                call.checkpoint()
                with changing(tree, volume, call, in_place=True) as image, alone(image) as still:
                    refuse_drift(tree, image, volume)
                    stamp = replace(image.ours(), restored_by=call.token)
                    exchange(tree, built, image, stamp, still)
            with found(tree, volume) as there:
                return volume_facts(needed(tree, there, volume))

    def wipe(
        self, volume: VolumeRef, call: Call, *, offset: int = 0, length: int | None = None
    ) -> VolumeFacts:
        with translated(self.backend), self._tree() as tree:
            overwrite(tree, volume, call, offset=offset, length=length)
            with found(tree, volume) as image:
                return volume_facts(needed(tree, image, volume))

    def trim(self, volume: VolumeRef, call: Call) -> VolumeFacts:
        with translated(self.backend), self._tree() as tree:
            in_steps(
                tree,
                volume,
                call,
                lambda image, *of: copying.trim_step(image.descriptor, *of),
                kept=True,
            )
            with found(tree, volume) as image:
                return volume_facts(needed(tree, image, volume))

    def fence_off(self, changed: VolumeRef | SnapshotRef, call: Call) -> None:
        with (
            translated(self.backend),
            self._tree() as tree,
            suppress(NotFound),
            changing(tree, changed, call),
        ):
            pass

    # -- removing -------------------------------------------------------------------------

    def remove(self, volume: VolumeRef, call: Call, *, wipe: bool = False) -> Removed:
        with translated(self.backend), self._tree() as tree:
            clear(tree, check_id(volume.id), call, wipe=wipe)
            wiped = 0
            if wipe:
                refuse_kept(tree, volume)
                with suppress(UnknownVolume):
                    wiped = overwrite(tree, volume, call)
            found = take_away(tree, volume, call)
            drop_stamp(tree, volume.id)
            return Removed(found, wiped)

    def delete_snapshot(self, snapshot: SnapshotRef, call: Call) -> None:
        self.discard(snapshot, call)

    # -- using ----------------------------------------------------------------------------

    def attach(self, volume: VolumeRef, call: Call, *, read_only: bool = False) -> Device:
        with (
            translated(self.backend),
            self._tree() as tree,
            changing(tree, volume, call) as image,
        ):
            refuse_drift(tree, image, volume)
            call.checkpoint()
            return self._device(image, attach_image(tree, image, read_only=read_only))

    def detach(self, volume: VolumeRef, call: Call) -> None:
        with translated(self.backend), self._tree() as tree:
            try:
                with changing(tree, volume, call) as image:
                    call.checkpoint()
                    detach_image(tree, image)
            except UnknownVolume:
                refuse_left(tree, volume.id)

    # -- inside -----------------------------------------------------------------------------

    def _directory(self) -> Tree:
        return Tree(self.backend, self.path, self.installation)

    def _parts(self, descriptor: int, size: int, watch: Watch) -> Iterator[tuple[int, bytes]]:
        # What is wrong with reading is this backend's, whoever reads.
        with translated(self.backend):
            for part in read_parts(descriptor, size):
                watch.step()
                yield part
            watch.end()

    def _recorded(self, tree: Tree, image: Image | None, of: VolumeRef | SnapshotRef) -> Image:
        image = needed(tree, image, of)
        refuse_writable(tree, image)
        refuse_drift(tree, image, of)
        return image

    @contextmanager
    def _tree(self) -> Iterator[Tree]:
        with self._directory() as tree:
            tree.require_marked()
            yield tree

    def _device(self, image: Image, loop: loops.Loop) -> Device:
        # Nothing keeps the user of a URI from writing, so there is none of what is only to be read.
        uris = () if loop.read_only else (f"kvm:file:{self.path / image.path}",)
        return Device(path=loop.path, uris=uris, read_only=loop.read_only)
