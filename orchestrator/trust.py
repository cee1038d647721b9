"""Which paths can be trusted: those that only root and our own user may change.

What the service runs (hooks, providers' scripts) or believes (its configuration, its data
directory, a backend's directory) is looked at first. Whoever else may write to it, or to a
directory on the way there, could exchange it.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

from orchestrator.domain.errors import InvalidInput

_OTHERS = stat.S_IWGRP | stat.S_IWOTH
#: As many links on a way as the kernel follows.
_MOST_LINKS = 40
_MOUNTS = Path("/proc/self/mountinfo")
#: Where it is there, the group's permissions are those of everybody who is named in the list.
_ACCESS_LIST = "system.posix_acl_access"


def require_trusted_data(data: Path) -> None:
    """`InvalidInput` if others could put something into the data directory, or in its place."""
    _require(data, "data directory", "data")


def require_trusted_config(path: Path) -> None:
    """`InvalidInput` if others could change the configuration file, which names what is run."""
    if not _is_given_to_a_container(path):
        _require(path, "configuration file", "config")


def _require(path: Path, what: str, field: str) -> None:
    try:
        why = why_untrusted(path)
    except OSError as error:
        why = f"{error.filename or path} cannot be looked at: {error.strerror}"
    if why is not None:
        raise InvalidInput(
            f"the {what} cannot be trusted: {why}; or run this as the user whose it is",
            field=field,
        )


def _is_given_to_a_container(path: Path) -> bool:
    """Whether a file, or the directory that it is in, has a read-only mount of its own.

    Then it is whoever runs the container that has written it, under whatever user id out there.
    """
    places = {os.path.abspath(path), os.path.abspath(path.parent)}  # noqa: PTH100 - keeps links
    try:
        mounts = _MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # proc_pid_mountinfo(5): the fifth field is the mount point, the sixth its options.
    fields = (line.split(" ") for line in mounts.splitlines())
    return any(one[4] in places and "ro" in one[5].split(",") for one in fields)


def is_private(status: os.stat_result, us: int) -> bool:
    """Whether only root and this user, our own, may write to a file or directory."""
    return status.st_uid in (0, us) and not status.st_mode & _OTHERS


def why_untrusted(path: str | Path) -> str | None:
    """What lets others exchange or change what is at a path, and what to do about it, a sentence;
    None if nobody else can.

    Looks at the path, the directories above it and the links on the way. What is not there yet
    is nobody's. Raises `OSError` where we may not look.
    """
    us = os.geteuid()
    for entry, status, leads_on in _way(Path(os.path.abspath(path))):  # noqa: PTH100 - keeps links
        why = _why_on_the_way(entry, status, us) if leads_on else why_others(entry, status, us)
        if why is not None:
            return why
    return None


def why_others(path: str | Path, status: os.stat_result, us: int | None = None) -> str | None:
    """The same for one file or directory alone, whose status this is."""
    us = os.geteuid() if us is None else us
    if status.st_uid not in (0, us):
        return (
            f"{path} belongs to user {_name(status.st_uid)}, who could exchange what is in it: "
            f"'chown {_name(us)} {shlex.quote(str(path))}'"
        )
    return why_open(path, status)


def why_open(path: str | Path, status: os.stat_result) -> str | None:
    """The same for others than its owner, whoever that is."""
    if not status.st_mode & _OTHERS:
        return None
    return (
        f"others may write to {path} (mode {stat.S_IMODE(status.st_mode):04o}), and so exchange "
        f"what is in it: 'chmod go-w {shlex.quote(str(path))}'"
    )


def _why_on_the_way(path: Path, status: os.stat_result, us: int) -> str | None:
    """The same for a directory or link on the way to something."""
    if stat.S_ISLNK(status.st_mode):
        if status.st_uid in (0, us):
            return None
        return (
            f"{path} is a link of user {_name(status.st_uid)}, who could lead it elsewhere: "
            f"'chown -h {_name(us)} {shlex.quote(str(path))}'"
        )
    # In a sticky directory nobody renames what is another's.
    if status.st_mode & stat.S_ISVTX and status.st_uid in (0, us):
        return None
    if not status.st_mode & stat.S_IWOTH and status.st_uid in (0, us) and _alone(path, status):
        return None
    return why_others(path, status, us)


def _alone(path: Path, status: os.stat_result) -> bool:
    """Whether nobody is in a directory's group but its owner.

    Distributions give each user such a group, of the user's name, and let it write.
    """
    try:
        owner, group = pwd.getpwuid(status.st_uid), grp.getgrgid(status.st_gid)
    except KeyError:
        return False
    if (owner.pw_gid, owner.pw_name) != (group.gr_gid, group.gr_name):
        return False
    return not set(group.gr_mem) - {owner.pw_name} and not _has_access_list(path)


def _has_access_list(path: Path) -> bool:
    try:
        os.getxattr(path, _ACCESS_LIST, follow_symlinks=False)
    except OSError as error:
        return error.errno not in (errno.ENODATA, errno.ENOTSUP)
    return True


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result, bool]]:
    """Every directory and link that is met on the way to a path, what is there, and whether it
    only leads on; in order, up to the first that is not there."""
    reached = Path("/")
    left = list(reversed(path.parts[1:]))
    yield reached, reached.lstat(), bool(left)
    links = 0
    while left:
        part = left.pop()
        entry = reached.parent if part == ".." else reached / part
        try:
            status = entry.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        linked = stat.S_ISLNK(status.st_mode)
        yield entry, status, linked or bool(left)
        if not linked:
            reached = entry
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        target = entry.readlink()
        if target.is_absolute():
            reached = Path("/")
        left += reversed(target.relative_to("/").parts if target.is_absolute() else target.parts)
        if not left:  # a link to the very directory it stands in, or to the root
            yield reached, reached.lstat(), False


def _name(user: int) -> str:
    """A user's name, or the number where there is none."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
