"""Who else uses an image, as the kernel tells: by whatever path, in whatever namespace.

A lease on a file is given only while nobody else has it open, loop devices included, and the
kernel tells its holder when somebody wants to open it. It is held for as long as the work
lasts. Where there are no leases (network file systems), the processes of this host are looked
through.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.domain.errors import AccessDenied, InUse, Unsupported
from workers.backends.base.files import file_system_of
from workers.backends.file import loops
from workers.backends.file.images import Image

#: What the kernel sends the holder of a lease that somebody wants: ignored unless one asks for
#: it, where its default, SIGIO, ends the process.
_SIGNAL = signal.SIGURG
_NO_LEASES = {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.ENOLCK}
_OVER_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "ceph", "9p"}
#: Who looks at an image opens it for a moment; who uses it keeps it open for longer than this.
_LET_GO = 1.0
_LOOK_AGAIN = 0.01


@contextmanager
def alone(image: Image, *, kept: bool = False) -> Iterator[Callable[[], None]]:
    """Nobody else has the image open for the block: `InUse` names who has.

    ``image`` is open for writing. What is given is to be called between the steps of long
    work: it raises `InUse` if somebody has opened it meanwhile, who is kept waiting until then.
    ``kept``: `Unsupported` where nobody would be kept waiting.
    """
    with _leased(image, fcntl.F_WRLCK, kept=kept) as unbroken:

        def check() -> None:
            if not unbroken():
                raise InUse(f"{image.name} is being opened by somebody else: {_ADVICE}")

        yield check


@contextmanager
def unwritten(image: Image) -> Iterator[Callable[[], None]]:
    """Nobody has the image open for writing for the block; it is open for reading only.

    What is given is to be called between steps, as that of `alone`.
    """
    with _leased(image, fcntl.F_RDLCK) as unbroken:

        def check() -> None:
            if not unbroken():
                raise InUse(f"{image.name} is being opened for writing: {_ADVICE}")

        yield check


def refuse_users(image: Image, *, writers: bool = False) -> None:
    """`InUse` if a process, other than through a loop device, has the image open now.

    ``writers``: those that may only read it do not count.
    """
    found, _ = _processes(image.status, writers)
    if found:
        raise InUse(f"{image.name} is open in {', '.join(found)}: {_ADVICE}")


_ADVICE = "stop what uses it, then try again"


@contextmanager
def _leased(image: Image, kind: int, *, kept: bool = False) -> Iterator[Callable[[], bool]]:
    descriptor = image.descriptor
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, _SIGNAL)
    writers = kind == fcntl.F_RDLCK
    end = None
    while True:
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, kind)
            break
        except BlockingIOError:
            for loop in loops.loops_of(image.status, image.file):
                if not (writers and loop.read_only):
                    raise InUse(
                        f"{image.name} is attached as {loop.path}: detach it first"
                    ) from None
            end = time.monotonic() + _LET_GO if end is None else end
            if time.monotonic() >= end:
                refuse_users(image, writers=writers)
                if file_system_of(descriptor) in _OVER_NETWORK:
                    # A server that has not delegated the file answers as if it were open.
                    _look_around(image, writers, may_be_blind=True)
                    _refuse_unkept(image, kept)
                    yield lambda: True
                    return
                raise InUse(
                    f"{image.name} is open in a process that this worker does not see, perhaps "
                    f"in a container: {_ADVICE}"
                ) from None
        except OSError as error:
            if error.errno not in (*_NO_LEASES, errno.EACCES, errno.EPERM):
                raise
            _look_around(image, writers, may_be_blind=error.errno in _NO_LEASES)
            _refuse_unkept(image, kept)
            yield lambda: True
            return
        time.sleep(_LOOK_AGAIN)
    try:
        yield lambda: fcntl.fcntl(descriptor, fcntl.F_GETLEASE) == kind
    finally:
        # Whoever waits may go on at once.
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _refuse_unkept(image: Image, kept: bool) -> None:
    if kept:
        raise Unsupported(
            f"whether somebody opens {image.name} meanwhile cannot be watched: the kernel gives "
            "this worker no lease on its image (a network file system, or another owner)"
        )


def _look_around(image: Image, writers: bool, *, may_be_blind: bool) -> None:
    """`InUse` if the host's loop devices and processes show that the image is used."""
    for loop in loops.loops_of(image.status, image.file):
        if not (writers and loop.read_only):
            raise InUse(f"{image.name} is attached as {loop.path}: detach it first")
    end = time.monotonic() + _LET_GO
    while True:
        found, all_seen = _processes(image.status, writers)
        if not found:
            break
        if time.monotonic() >= end:
            raise InUse(f"{image.name} is open in {', '.join(found)}: {_ADVICE}")
        time.sleep(_LOOK_AGAIN)
    if not (all_seen or may_be_blind):
        raise AccessDenied(
            f"whether {image.path} is in use is not known: it belongs to user "
            f"{image.status.st_uid}; run the worker as root, or give the image to its user"
        )


def _processes(image: os.stat_result, writers: bool) -> tuple[list[str], bool]:
    """The processes of this host that have a file open, and whether all could be looked at."""
    # Where /proc hides the processes of others, it does not even list them.
    found, all_seen = [], Path("/proc/1").exists()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or process.name == str(os.getpid()):
            continue
        try:
            with os.scandir(process / "fd") as descriptors:
                holds = any(_holds(opened, process, image, writers) for opened in descriptors)
            if holds:
                command = (process / "comm").read_text(errors="replace").strip()
                found.append(f"{command} (process {process.name})")
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            all_seen = False
    return found, all_seen


def _holds(opened: os.DirEntry[str], process: Path, image: os.stat_result, writers: bool) -> bool:
    try:
        status = opened.stat()
    except PermissionError:
        raise
    except OSError:
        return False  # closed meanwhile, or nothing that could be an image
    if not os.path.samestat(status, image):
        return False
    told = (process / "fdinfo" / opened.name).read_text().partition("flags:")[2].split()[0]
    flags = int(told, 8)
    return not flags & os.O_PATH and not (writers and flags & os.O_ACCMODE == os.O_RDONLY)
