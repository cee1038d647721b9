"""Making volumes and snapshots: found as asked, or built and published."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace

from orchestrator.domain.errors import Conflict, IdentityMismatch
from workers.backends.base.call import Call
from workers.backends.base.facts import SnapshotFacts, VolumeFacts
from workers.backends.base.references import SnapshotRef, VolumeRef
from workers.backends.file import layout
from workers.backends.file.building import Built, building, publish
from workers.backends.file.contents import take
from workers.backends.file.facts import snapshot_facts, volume_facts
from workers.backends.file.holding import fenced, settle
from workers.backends.file.images import Image, found, snapshots_of, walk
from workers.backends.file.marker import read_marker
from workers.backends.file.stamps import Stamp
from workers.backends.file.tree import Tree


def make_volume(
    tree: Tree,
    volume: VolumeRef,
    size: int,
    metadata: Mapping[str, str],
    fill: Callable[[Built], None],
    call: Call,
) -> VolumeFacts:
    """The volume as asked, made unless it is there; ``fill`` gives it contents and size."""
    place = layout.volume_place(volume.name, volume.id)
    # An id is given for one creation: looking for it under other names would only take time.
    with found(tree, volume, anywhere=False) as there:
        if there is not None:
            stamp = there.ours()
            fenced(tree, stamp, call)
            if (there.status.st_size, dict(stamp.metadata)) != (size, dict(metadata)):
                raise Conflict(
                    f"volume {volume.name} exists with {there.status.st_size} bytes, not as "
                    f"asked with {size} bytes",
                    size_bytes=there.status.st_size,
                )
            settle(tree, there)
            return volume_facts(there)
    stamp = replace(new_stamp(tree, volume, call), metadata=dict(metadata))
    with building(tree, volume.id, call) as built:
        fill(built)
        publish(tree, built, place, stamp, call)
        return volume_facts(_published(place, volume.name, built, stamp))


def make_snapshot(tree: Tree, snapshot: SnapshotRef, call: Call) -> SnapshotFacts:
    """The snapshot as asked, made unless it is there."""
    place = layout.snapshot_place(snapshot.name, snapshot.id, snapshot.volume.id)
    with found(tree, snapshot) as there:
        if there is not None:
            fenced(tree, there.ours(), call)
            if there.name != snapshot.name:
                raise Conflict(f"snapshot {snapshot.id} exists as {there.name}")
            settle(tree, there)
            return snapshot_facts(there)
    with building(tree, snapshot.id, call) as built:
        take(tree, snapshot.volume, built, call)
        stamp = replace(
            new_stamp(tree, snapshot, call),
            volume=snapshot.volume.id,
            order=_last_order(tree, snapshot.volume) + 1,
        )
        publish(tree, built, place, stamp, call)
        return snapshot_facts(_published(place, snapshot.name, built, stamp))


def _last_order(tree: Tree, volume: VolumeRef) -> int:
    stamps = (image.stamp for image in walk(tree, snapshots_of(volume)))
    return max((stamp.order for stamp in stamps if stamp is not None), default=0)


def new_stamp(tree: Tree, made: VolumeRef | SnapshotRef, call: Call) -> Stamp:
    """The stamp of what this call makes."""
    identity = read_marker(tree)
    if identity is None:
        raise IdentityMismatch(f"backend {tree.backend}: {tree.path} lost its identity marker")
    return Stamp(
        id=made.id,
        name=made.name,
        identity=identity,
        job=call.job_id,
        installation=tree.installation,
        fence=call.fence,
    )


def _published(place: layout.Place, name: str, built: Built, stamp: Stamp) -> Image:
    return Image(
        directory=place.directory,
        file=place.file,
        name=name,
        status=os.fstat(built.descriptor),
        stamp=stamp,
    )
