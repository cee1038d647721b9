"""The identity marker: which backend this directory is."""

from __future__ import annotations

import json
import os
import secrets

from orchestrator.domain.errors import BackendError, IdentityMismatch
from workers.backends.file import layout
from workers.backends.file.tree import Tree
from workers.files import rename_without_replacing

_FORMAT = 1


def read_marker(tree: Tree) -> str | None:
    """The identity written in the directory; None if it bears none."""
    try:
        text = tree.read_text((layout.OWN,), layout.MARKER)
    except FileNotFoundError:
        return None
    if text is None:
        return None
    try:
        given = json.loads(text)
        if given["format"] == _FORMAT:
            return str(given["identity"])
    except (ValueError, TypeError, KeyError):
        pass
    raise BackendError(
        f"backend {tree.backend}: {layout.OWN}/{layout.MARKER} cannot be read: restore it, or "
        "write a new one by verifying the backend with accept_identity"
    )


def write_marker(tree: Tree, identity: str, *, replace: bool) -> None:
    """Set the directory up and mark it; `IdentityMismatch` if it is another backend's."""
    for parts in (
        layout.TEMPORARY,
        layout.STAMPS,
        layout.LOCKS,
        layout.VOLUMES,
        layout.SNAPSHOTS,
    ):
        tree.make_directory(*parts)
    own = tree.directory(layout.OWN)
    built = f"{layout.MARKER}.{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(built, flags, 0o600, dir_fd=own), "w", encoding="utf-8") as file:
        json.dump({"format": _FORMAT, "identity": identity}, file)
        file.flush()
        os.fsync(file.fileno())
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
