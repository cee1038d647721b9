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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.domain.errors import BackendError
from workers.backends.base.files import anew
from workers.backends.file import layout
from workers.backends.file.marker import has_attributes, should_have_attributes
from workers.backends.file.tree import Tree

ATTRIBUTE = "user.orchestrator.stamp"
_FORMAT = 1
#: The stamp of some image is a file; earlier versions did not say whose.
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
    #: The file it was written for, which no copy of it is. Of contents in another file
    #: ``restored_by`` says nothing, where the stamp cannot be replaced in one step with them.
    inode: int | None = None
    #: Of a snapshot: the volume's id, and its place in the row of the volume's snapshots.
    volume: str | None = None
    order: int = 0
    #: The ids that were to take the volume over, and may have some of its snapshots already.
    heirs: Sequence[str] = ()


def read_stamp(tree: Tree, image: int, object_id: str, where: str) -> Stamp | None:
    """The stamp of an image whose name carries ``object_id``; None if it bears no such stamp.

    ``image`` is a descriptor, which may be one of `look_at_file`; ``where`` is its path, for
    people. A stamp that is there and cannot be read is raised: `AccessDenied`, `BackendError`.
    """
    stamp = borne(tree, image, where, object_id)
    # A copy of one of our images made by hand carries its stamp, but no name of ours.
    return stamp if stamp is not None and stamp.id == object_id else None


def borne(tree: Tree, image: int, where: str, *object_ids: str) -> Stamp | None:
    """Whatever stamp of ours an image bears, perhaps with one of these ids; None if none."""
    written = _attribute(image, where)
    if written is None or written == _BESIDE:
        candidates = object_ids
    elif (beside := _id_beside(written)) is not None:
        candidates = (beside,)
    else:
        return _parsed(written, where)
    inode = os.fstat(image).st_ino
    for object_id in candidates:
        text = tree.read_file(layout.STAMPS, _file(object_id))
        if text is None:
            continue
        stamp = _parsed(text, tree.where(layout.STAMPS, _file(object_id)))
        return stamp if stamp.inode == inode else replace(stamp, restored_by=None)
    if not os.fstat(image).st_nlink:  # removed just now, and its stamp with it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), where)
    if written is not None and written != _BESIDE and candidates[0] in object_ids:
        raise BackendError(
            f"backend {tree.backend}: the stamp of {where} is missing: restore "
            f"{tree.where(layout.STAMPS, _file(candidates[0]))}"
        )
    if written is None and should_have_attributes(tree) and not has_attributes(tree.root):
        raise BackendError(
            f"backend {tree.backend}: this mount of {tree.path} shows no extended attributes, and "
            f"stamps are kept in them, so whose {where} is is not known: mount it so that it does"
        )
    return None


def write_stamp(tree: Tree, image: int, stamp: Stamp, *, durable: bool = True) -> None:
    """Give an open image its stamp. ``durable``: the image's contents are, too, afterwards."""
    stamp = replace(stamp, inode=os.fstat(image).st_ino)
    try:
        os.setxattr(image, ATTRIBUTE, _written(stamp))
    except OSError as error:
        if error.errno not in _WILL_NOT_FIT:
            raise
        # An attribute that points to it must not reach the disk before it does.
        _write_beside(tree, stamp, durable or error.errno != errno.EOPNOTSUPP)
        try:
            os.setxattr(image, ATTRIBUTE, json.dumps({"beside": stamp.id}).encode())
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


def settle_stamps(tree: Tree) -> None:
    """See that the stamps that are files of their own are on the disk."""
    os.fsync(tree.directory(*layout.STAMPS))


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
    given = {key: value for key, value in vars(stamp).items() if value not in (None, {}, ())}
    return json.dumps({"format": _FORMAT, **given}, separators=(",", ":")).encode()


def _parsed(written: str | bytes, where: str) -> Stamp:
    try:
        given = json.loads(written)
        if given.pop("format") != _FORMAT:
            raise ValueError("another version's")
        if "restored_inode" in given:  # earlier versions wrote it so, and only beside
            given["inode"] = given.pop("restored_inode")
        stamp = Stamp(**given)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise BackendError(
            f"the stamp of {where} cannot be read, so whose it is is not known: if a later version "
            "of the orchestrator wrote it, use that one; else restore the file from a backup, or "
            f"take the stamp away: 'setfattr -x {ATTRIBUTE} {where}'"
        ) from error
    # Earlier versions wrote the number of the job here.
    made = stamp.restored_by
    return stamp if made is None else replace(stamp, restored_by=str(made))


def _attribute(image: int, where: str) -> bytes | None:
    try:
        return os.getxattr(anew(image), ATTRIBUTE)
    except FileNotFoundError:
        raise BackendError("/proc is not there: the worker needs it to look at images") from None
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        error.filename = where
        raise


def _id_beside(written: bytes) -> str | None:
    try:
        beside = json.loads(written)["beside"]
    except (ValueError, TypeError, KeyError):
        return None
    return beside if isinstance(beside, str) else None
