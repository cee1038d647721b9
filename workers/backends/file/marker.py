"""What a directory says of itself: which backend it is, and who writes to it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import sys
from contextlib import suppress
from dataclasses import dataclass

from orchestrator.domain.errors import BackendError, IdentityMismatch
from workers.backends.base.files import rename_without_replacing
from workers.backends.file import layout
from workers.backends.file.tree import Tree

_FORMAT = 1
_NEW = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


#: <linux/fs.h>: FS_IOC_GETVERSION, what tells inodes of one number apart.
_GENERATION = 0x80087601


@dataclass(frozen=True)
class _Origin:
    """The directory that a marker was written in: what no copy of it has."""

    inode: int
    #: None: this file system does not tell.
    generation: int | None


@dataclass(frozen=True)
class _Marker:
    identity: str
    #: None: it was not written down.
    origin: _Origin | None
    #: Whether the file system had extended attributes then, for stamps.
    attributes: bool = False


def read_marker(tree: Tree) -> str | None:
    """The identity written in the directory; None if it bears none.

    Raises `IdentityMismatch` if the directory is a copy of the one that it was written in.
    """
    marker = _marker(tree)
    if marker is None:
        return None
    if marker.origin is not None and _differ(marker.origin, _origin(tree)):
        raise IdentityMismatch(
            f"backend {tree.backend}: {tree.path} is a copy of the storage of {marker.identity}: "
            "the original may be in use elsewhere. Nothing was changed. If this copy is to be the "
            f"backend's storage, an administrator can say so with 'orchestrator backend verify "
            f"{tree.backend} accept_identity=true'"
        )
    return marker.identity


def write_marker(tree: Tree, identity: str, *, replace: bool) -> None:
    """Set the directory up and mark it; `IdentityMismatch` if it is another backend's."""
    tree.set_up()
    own = tree.directory(layout.OWN)
    if not replace:
        marker = _marker(tree)
        # One of before its directory was written down is completed.
        replace = marker is not None and (marker.identity, marker.origin) == (identity, None)
    built = f"{layout.MARKER}.{secrets.token_hex(8)}"
    given: dict[str, object] = {"format": _FORMAT, "identity": identity}
    given["attributes"] = has_attributes(own)
    # File systems in user space may number their files anew each time they are mounted.
    if not (tree.file_system() or "fuse").startswith("fuse"):
        given |= vars(_origin(tree))
    _write(own, built, json.dumps(given).encode(), os.O_EXCL)
    try:
        if replace:
            os.replace(built, layout.MARKER, src_dir_fd=own, dst_dir_fd=own)
        else:
            rename_without_replacing(own, built, own, layout.MARKER)
    except FileExistsError:
        os.unlink(built, dir_fd=own)
        there = read_marker(tree)
        if there != identity:
            raise IdentityMismatch(
                f"backend {tree.backend} already bears the marker {there}, not {identity}"
            ) from None
    os.fsync(own)


def should_have_attributes(tree: Tree) -> bool:
    """Whether stamps may be in extended attributes although this mount shows none."""
    marker = _marker(tree)
    return marker is not None and marker.attributes


def has_attributes(file: int) -> bool:
    """Whether the file system has extended attributes."""
    try:
        os.getxattr(file, "user.orchestrator")
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        if error.errno != errno.ENODATA:
            raise
    return True


def read_lease(tree: Tree) -> bytes | None:
    """What the one who writes here has left; None: nothing."""
    try:
        return tree.read_file((layout.OWN,), layout.LEASE)
    except FileNotFoundError:
        return None


def write_lease(tree: Tree, new: bytes, expected: bytes | None) -> None:
    """Replace that, durably; `IdentityMismatch` if it is neither ``expected`` nor ``new``."""
    with tree.names_locked("lease"):
        there = read_lease(tree)
        if there not in (expected, new):
            raise IdentityMismatch(
                f"backend {tree.backend}: somebody else has begun to write to {tree.path}"
            )
        own = tree.directory(layout.OWN)
        # Written again also where it is there already: its first writer may have failed to
        # bring it onto the disk.
        built = f"{layout.LEASE}.new"
        _write(own, built, new, os.O_TRUNC)
        os.replace(built, layout.LEASE, src_dir_fd=own, dst_dir_fd=own)
        os.fsync(own)


def _marker(tree: Tree) -> _Marker | None:
    try:
        written = tree.read_file((layout.OWN,), layout.MARKER)
    except FileNotFoundError:
        return None
    if written is None:
        return None
    try:
        given = json.loads(written)
        if given["format"] == _FORMAT:
            inode = given.get("inode")
            origin = None if inode is None else _Origin(inode, given.get("generation"))
            return _Marker(str(given["identity"]), origin, bool(given.get("attributes")))
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise BackendError(
        f"backend {tree.backend}: {layout.OWN}/{layout.MARKER} cannot be read: restore it, or "
        "write a new one by verifying the backend with accept_identity"
    )


def _origin(tree: Tree) -> _Origin:
    own = tree.directory(layout.OWN)
    answer = bytearray(8)
    generation = None
    # Not told over a network.
    with suppress(OSError):
        fcntl.ioctl(own, _GENERATION, answer)
        generation = int.from_bytes(answer[:4], sys.byteorder)
    return _Origin(os.fstat(own).st_ino, generation)


def _differ(written: _Origin, there: _Origin) -> bool:
    if written.inode != there.inode:
        return True
    told = {written.generation, there.generation} - {None}
    return len(told) == 2


def _write(directory: int, name: str, text: bytes, flags: int) -> None:
    with os.fdopen(os.open(name, _NEW | flags, 0o600, dir_fd=directory), "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
