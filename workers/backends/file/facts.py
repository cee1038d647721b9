"""What is told of images, in the words of the driver interface."""

from __future__ import annotations

import os
from dataclasses import replace

from workers.backends.base.facts import SnapshotFacts, VolumeFacts
from workers.backends.file.images import Image
from workers.backends.file.stamps import Stamp


def volume_facts(image: Image) -> VolumeFacts:
    """The facts of a volume's image as it was when read."""
    stamp = image.stamp
    return VolumeFacts(
        id=stamp.id if stamp else None,
        name=image.name,
        size_bytes=image.status.st_size,
        used_bytes=image.used_bytes,
        metadata=dict(stamp.metadata) if stamp else {},
        restored_by=stamp.restored_by if stamp else None,
        links=image.status.st_nlink,
        owner=_owner(image.status),
        written_at=image.status.st_mtime,
    )


def present_facts(image: Image, stamp: Stamp | None = None) -> VolumeFacts:
    """The facts of a volume's open image after a change, perhaps one of its stamp."""
    status = os.fstat(image.descriptor)
    return volume_facts(replace(image, status=status, stamp=stamp or image.stamp))


def snapshot_facts(image: Image) -> SnapshotFacts:
    """The facts of a snapshot's image as it was when read."""
    return SnapshotFacts(
        id=image.stamp.id if image.stamp else None,
        name=image.name,
        size_bytes=image.status.st_size,
        used_bytes=image.used_bytes,
        order=image.stamp.order if image.stamp else 0,
        links=image.status.st_nlink,
        owner=_owner(image.status),
        written_at=image.status.st_mtime,
    )


def _owner(status: os.stat_result) -> str:
    return f"{status.st_uid}:{status.st_gid} {status.st_mode & 0o7777:04o}"
