"""Renaming images: once begun it can be repeated and undone, however it was cut short."""

from __future__ import annotations

import os
from dataclasses import replace

from workers.backends.base.call import Call
from workers.backends.base.facts import VolumeFacts
from workers.backends.base.files import rename_without_replacing
from workers.backends.base.references import VolumeRef
from workers.backends.file import layout, loops
from workers.backends.file.facts import present_facts
from workers.backends.file.holding import (
    changing,
    drop_further_names,
    has_name,
    refuse_drift,
    settle_directory,
)
from workers.backends.file.images import Image, drop_empty, refuse_taken
from workers.backends.file.stamps import write_stamp
from workers.backends.file.tree import Tree
from workers.backends.file.uses import alone, refuse_users


def rename_image(tree: Tree, volume: VolumeRef, new_name: str, call: Call) -> VolumeFacts:
    """Give a volume's image another name, and no other than this one."""
    place = layout.volume_place(new_name, volume.id)
    with changing(tree, volume, call) as image:
        refuse_drift(tree, image, volume)
        call.checkpoint()
        if image.name != new_name:
            _refuse_used(image)
        stamp = replace(image.ours(), name=new_name)
        renamed = replace(image, name=new_name, directory=place.directory, file=place.file)
        if image.name == new_name:
            write_stamp(tree, image.descriptor, stamp)
        else:
            old = tree.directory(*image.directory)
            with tree.names_locked(layout.lane_of_directory(place.directory)):
                new = tree.make_directory(*place.directory)
                # Both names are there where an earlier attempt was cut short between the two.
                both = has_name(image, new, place.file)
                refuse_taken(tree, place, besides=place.file if both else None)
                write_stamp(tree, image.descriptor, stamp)
                rename_without_replacing(old, image.file, new, place.file)
            os.fsync(new)
            os.fsync(old)
            drop_empty(tree, image.directory)
        drop_further_names(tree, renamed)
        settle_directory(tree, place.directory)
        was = layout.volume_place(volume.name, volume.id)
        settle_directory(tree, was.directory)
        return present_facts(renamed, stamp)


def _refuse_used(image: Image) -> None:
    """`InUse` if a process has the file open; a device does not mind its name."""
    if loops.loops_of(image.status, image.file):
        refuse_users(image)
    else:
        with alone(image):
            pass
