"""What the operating system says, in the words of `orchestrator.domain.errors`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.domain.errors import (
    AccessDenied,
    BackendBusy,
    BackendError,
    InvalidSize,
    NoSpace,
    Outage,
    Problem,
)

_FULL = {errno.ENOSPC, errno.EDQUOT}
#: The connection to a network file system was lost, or what it exported is gone.
_GONE = {
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ENXIO,
    errno.ESHUTDOWN,
}
#: This host is short of something that others will give back.
_SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EBUSY, errno.ENOLCK}
_REMEDY = {
    errno.EROFS: "the file system is mounted read-only: look at the host's log, then remount it",
    errno.ELOOP: "a symbolic link stands where the backend keeps its own files: remove it",
    errno.ENOTDIR: "something else stands where the backend keeps a directory: remove it",
    errno.EIO: "the disk failed: look at the host's log",
}


@contextmanager
def translated(backend: str) -> Iterator[None]:
    """Raise operating system errors as errors of the vocabulary."""
    try:
        yield
    except OSError as error:
        raise problem_of(backend, error) from error


def problem_of(backend: str, error: OSError) -> Problem:
    """The error to raise for ``error``."""
    code = error.errno or 0
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    told = f"backend {backend}: {error.strerror or error}{where}"
    if code == errno.EACCES:
        return AccessDenied(f"{told}: give the worker's user access, so that it can be looked at")
    if code == errno.EPERM:
        return AccessDenied(
            f"{told}: 'lsattr' shows whether it is immutable or append-only ('chattr -i -a' ends "
            "that); else give the worker's user access"
        )
    if code in _FULL:
        return NoSpace(f"{told}: free some room, then retry")
    if code in _GONE:
        return Outage(told)
    if code in _SHORT:
        return BackendBusy(told)
    if code == errno.EFBIG:
        return InvalidSize(f"{told}: the file system holds no file of this size")
    return BackendError(f"{told}: {_REMEDY[code]}" if code in _REMEDY else told)
