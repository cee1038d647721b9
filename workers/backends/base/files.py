"""Opening files without following links, and giving names without replacing any."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: O_NONBLOCK: a pipe that somebody put there must not hold us up.
NO_LINK = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RENAME_NOREPLACE = 1
_NO_SUCH_RENAME = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)


def open_directory(above: int, name: str) -> int:
    """A descriptor of a directory that is no link; `FileNotFoundError` if absent."""
    return os.open(name, _DIRECTORY, dir_fd=above)


def open_file(directory: int, name: str, flags: int) -> int | None:
    """A descriptor of a regular file; None if something else bears the name.

    Raises `FileNotFoundError`.
    """
    try:
        descriptor = os.open(name, NO_LINK | flags, dir_fd=directory)
    except OSError as error:
        # A link (ELOOP), a directory (EISDIR), a socket or a pipe without reader (ENXIO).
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            return None
        raise
    return _if_regular(descriptor)


def look_at_file(directory: int, name: str) -> int | None:
    """The same, to be looked at and not opened: that needs no access to the contents, and
    disturbs nobody who holds a lease on them."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    return _if_regular(descriptor)


def _if_regular(descriptor: int) -> int | None:
    """The descriptor if it is of a regular file; else it is closed, also where that fails."""
    regular = False
    try:
        regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        return descriptor if regular else None
    finally:
        if not regular:
            os.close(descriptor)


def anew(descriptor: int) -> str:
    """A path by which what is open can be reached anew, wherever its names are."""
    return f"/proc/self/fd/{descriptor}"


def rename_without_replacing(from_directory: int, old: str, to_directory: int, new: str) -> None:
    """Rename in one step; `FileExistsError` if the new name is taken, `FileNotFoundError`
    if the old one is gone.

    A file that has both names already has the new one alone afterwards.
    """
    try:
        if _renamed(from_directory, old, to_directory, new):
            return
        # Network file systems: a link replaces nothing either.
        os.link(old, new, src_dir_fd=from_directory, dst_dir_fd=to_directory, follow_symlinks=False)
    except FileExistsError:
        # An earlier attempt was cut short between the two, or the answer to it was lost.
        there = os.stat(new, dir_fd=to_directory, follow_symlinks=False)
        mine = os.stat(old, dir_fd=from_directory, follow_symlinks=False)
        if not os.path.samestat(there, mine):
            raise
    with suppress(FileNotFoundError):
        os.unlink(old, dir_fd=from_directory)


def _renamed(from_directory: int, old: str, to_directory: int, new: str) -> bool:
    """Whether this system can do it in one step; then it is done."""
    if _renameat2 is None:
        return False
    if not _renameat2(
        from_directory, os.fsencode(old), to_directory, os.fsencode(new), _RENAME_NOREPLACE
    ):
        return True
    code = ctypes.get_errno()
    if code in _NO_SUCH_RENAME:
        return False
    raise OSError(code, os.strerror(code), new)


def file_system_of(descriptor: int) -> str | None:
    """The kind of file system that an open file is on, in the kernel's word; None: not known."""
    mount = Path(f"/proc/self/fdinfo/{descriptor}").read_text().partition("mnt_id:")[2].split()
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields, _, kind = line.partition(" - ")
        if fields.split(" ", 1)[0] == mount[0]:
            return kind.split(" ")[0]
    return None
