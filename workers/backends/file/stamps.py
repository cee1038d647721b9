"""The stamp of an image: whose it is, kept with the file itself.

A stamp is one extended attribute, so it is replaced in one step and travels with the file.
Where the file system has no such attributes, or the stamp is too large for them (ext4 holds
4 KiB in all, and metadata may be larger), it is a small file under the id; the attribute,
where there can be one, then only points there.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from workers.backends.file import layout
from workers.backends.file.tree import Tree

ATTRIBUTE = "user.orchestrator.stamp"
_FORMAT = 1
_BESIDE = b'{"beside":true}'
_ABSENT = {errno.ENODATA, errno.EOPNOTSUPP}
#: No attributes at all, or none of this size; a disk that is really full says so again when
#: the file is written instead.
_WILL_NOT_FIT = {errno.EOPNOTSUPP, errno.ENOSPC, errno.E2BIG, errno.ERANGE}


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What is known of an image beside its contents."""

    id: str
    #: As given at the last change; the file's own name is what counts.
    name: str
    #: The marker of the backend it was made in. Told to people, never judged by.
    identity: str
    #: The job that made it.
    job: int
    #: The database whose fences are counted here, and the largest one that changed the image.
    installation: str
    fence: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    #: The token of the job whose rollback made the present contents.
    restored_by: str | None = None
    #: The contents that ``restored_by`` speaks of, where the stamp is a file of its own and
    #: cannot be replaced in one step with them.
    restored_inode: int | None = None
    #: Of a snapshot: the volume's id, and its place in the row of the volume's snapshots.
    volume: str | None = None
    order: int = 0


def read_stamp(tree: Tree, image: int, object_id: str) -> Stamp | None:
    """The stamp of an open image whose name carries ``object_id``; None if it is not ours."""
    try:
        written = os.getxattr(image, ATTRIBUTE)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        written = _BESIDE
    if written == _BESIDE:
        text = tree.read_file(layout.STAMPS, _file(object_id))
        if text is None:
            return None
        stamp = _parsed(text)
        if stamp is not None and stamp.restored_inode != os.fstat(image).st_ino:
            stamp = replace(stamp, restored_by=None)
    else:
        stamp = _parsed(written)
    # A copy of one of our images made by hand carries its stamp, but no name of ours.
    return stamp if stamp is not None and stamp.id == object_id else None


def write_stamp(tree: Tree, image: int, stamp: Stamp, *, durable: bool = True) -> None:
    """Give an open image its stamp. ``durable``: the image's contents are, too, afterwards."""
    written = _written(stamp)
    try:
        os.setxattr(image, ATTRIBUTE, written)
    except OSError as error:
        if error.errno not in _WILL_NOT_FIT:
            raise
        stamp = replace(stamp, restored_inode=os.fstat(image).st_ino)
        _write_beside(tree, stamp, durable)
        try:
            os.setxattr(image, ATTRIBUTE, _BESIDE)
        except OSError as refused:
            if refused.errno != errno.EOPNOTSUPP:
                raise
    if durable:
        os.fsync(image)


def drop_stamp(tree: Tree, object_id: str) -> None:
    """Remove the stamp's file of an image that is gone, if it had one."""
    try:
        os.unlink(_file(object_id), dir_fd=tree.directory(*layout.STAMPS))
    except FileNotFoundError:
        return


def temporary_stamp(stamp: Stamp) -> str:
    """Where a stamp's file is built: named so that later callers clear it away."""
    return f"{stamp.id}.{stamp.fence}.stamp"


def _file(object_id: str) -> str:
    return f"{object_id}.json"


def _write_beside(tree: Tree, stamp: Stamp, durable: bool) -> None:
    built = tree.directory(*layout.TEMPORARY)
    kept = tree.directory(*layout.STAMPS)
    name = temporary_stamp(stamp)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=built), "wb") as file:
        file.write(_written(stamp))
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, _file(stamp.id), src_dir_fd=built, dst_dir_fd=kept)
    if durable:
        os.fsync(kept)


def _written(stamp: Stamp) -> bytes:
    given = {key: value for key, value in vars(stamp).items() if value not in (None, {})}
    return json.dumps({"format": _FORMAT, **given}, separators=(",", ":")).encode()


def _parsed(written: str | bytes) -> Stamp | None:
    # What cannot be read is not ours: somebody else may use the same attribute.
    try:
        given = json.loads(written)
        if given.pop("format") != _FORMAT:
            return None
        stamp = Stamp(**given)
        # Earlier versions wrote the number of the job here.
        made = stamp.restored_by
        return stamp if made is None else replace(stamp, restored_by=str(made))
    except (ValueError, TypeError, AttributeError, KeyError):
        return None
