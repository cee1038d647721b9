"""Opening, locking and publishing files below one directory, without ever leaving it.

Everything is opened step by step from a descriptor of the backend's directory, and no step
follows a symbolic link. The descriptors live for one call: a longer life would keep a file
system from being unmounted, or go on writing to one that is no longer there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from orchestrator.domain.errors import (
    BackendBusy,
    BackendError,
    Outage,
)
from orchestrator.trust import is_private
from workers.backends.base.files import NO_LINK, file_system_of, open_directory, open_file
from workers.backends.file import layout
from workers.backends.file.trust import refuse_others

#: Seconds to wait for a lock: others hold one for the time of a few system calls.
LOCK_WAIT = 0.5
LOCK_LOOK = 0.005


class Tree:
    """The backend's directory during one call."""

    def __init__(self, backend: str, path: Path, installation: str) -> None:
        self.backend = backend
        self.path = path
        self.installation = installation
        self._open: dict[tuple[str, ...], int] = {}
        try:
            # The directory itself may be reached through links: its path is the administrator's.
            self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Outage(
                f"backend {backend}: there is no directory {path}: mount or create it"
            ) from error
        self._open[()] = self.root
        self._us = os.geteuid()
        try:
            self._refuse_others(self.root, ())
        except BaseException:
            os.close(self.root)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def require_marked(self) -> None:
        """Raise `Outage` where nothing was ever set up: perhaps nothing is mounted."""
        try:
            self.directory(layout.OWN)
        except FileNotFoundError:
            raise Outage(
                f"backend {self.backend}: {self.path} bears no identity marker: make sure that "
                "the right file system is mounted there; if it is new, verify the backend with "
                "accept_identity"
            ) from None

    def where(self, parts: tuple[str, ...], file: str = "") -> str:
        """The path of something below the directory, for people."""
        return os.path.join(self.path, *parts, file).rstrip("/")  # noqa: PTH118 - no Path: quick

    def directory(self, *parts: str) -> int:
        """A descriptor of the directory, closed with the tree; `FileNotFoundError` if absent.

        Those that are always there are no lesser absence: `BackendError`.
        """
        if (known := self._open.get(parts)) is not None:
            return known
        try:
            found = self._open[parts] = self.open_anew(*parts)
        except FileNotFoundError:
            if parts in layout.ALWAYS:
                raise BackendError(
                    f"backend {self.backend}: its directory {self.where(parts)} is missing, and "
                    "whatever was in it: restore it"
                ) from None
            raise
        return found

    def open_anew(self, *parts: str) -> int:
        """A descriptor of the directory for the caller alone, who closes it."""
        above = self.directory(*parts[:-1])
        try:
            found = open_directory(above, parts[-1])
        except OSError as error:
            error.filename = self.where(parts)
            raise
        try:
            self._refuse_others(found, parts)
        except BaseException:
            os.close(found)
            raise
        return found

    def make_directory(self, *parts: str) -> int:
        """The same, made durably where it is absent; what it stands in is there."""
        try:
            return self.directory(*parts)
        except FileNotFoundError:
            self._make(self.make_directory(*parts[:-1]), parts[-1])
            return self.directory(*parts)

    def set_up(self) -> None:
        """Make the directories that are always there."""
        for parts in layout.ALWAYS:
            above = self.root
            for number, part in enumerate(parts, start=1):
                self._make(above, part)
                above = self.directory(*parts[:number])

    def _refuse_others(self, descriptor: int, parts: tuple[str, ...], file: str = "") -> None:
        status = os.fstat(descriptor)
        if not is_private(status, self._us):
            refuse_others(self.backend, self.where(parts, file), status)

    def _make(self, above: int, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=above)
        except FileExistsError:
            os.fsync(above)
            return
        try:
            os.fsync(above)
        except OSError:
            # The next attempt must not take it for one that is on the disk.
            with suppress(OSError):
                os.rmdir(name, dir_fd=above)
            raise

    def drop_directories(self, parts: tuple[str, ...], keep: int) -> None:
        """Remove a directory and those above it as far as they are empty, but ``keep``."""
        while len(parts) > keep:
            descriptor = self._open.pop(parts, None)
            if descriptor is not None:
                os.close(descriptor)
            try:
                os.rmdir(parts[-1], dir_fd=self.directory(*parts[:-1]))
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                    raise
                return
            parts = parts[:-1]

    def list_names(self, *parts: str) -> list[str]:
        """What a directory holds; nothing if it is absent."""
        try:
            return os.listdir(self.directory(*parts))  # noqa: PTH208 - a Path would follow links
        except FileNotFoundError:
            return []

    def read_file(self, directory: tuple[str, ...], name: str) -> bytes | None:
        """What a small file holds; None if it is absent.

        Raises `BackendError` if something else than a file bears the name.
        """
        try:
            descriptor = open_file(self.directory(*directory), name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError as error:
            error.filename = self.where(directory, name)
            raise
        if descriptor is None:
            raise BackendError(
                f"backend {self.backend}: {'/'.join((*directory, name))} is no file: something "
                "else stands where the backend keeps its own: remove it"
            )
        try:
            self._refuse_others(descriptor, directory, name)
            read = b""
            while more := os.read(descriptor, 1 << 16):
                read += more
            return read
        finally:
            os.close(descriptor)

    def file_system(self) -> str | None:
        """What kind of file system this is, in the kernel's word; None if it does not tell."""
        return file_system_of(self.root)

    @contextmanager
    def names_locked(self, lane: str) -> Iterator[None]:
        """Nobody else gives or takes a name of this lane meanwhile."""
        lock = os.open(
            lane, NO_LINK | os.O_RDWR | os.O_CREAT, 0o600, dir_fd=self.directory(*layout.LOCKS)
        )
        try:
            lock_file(lock, f"backend {self.backend}: another call is giving names just now")
            yield
        finally:
            os.close(lock)


def lock_file(descriptor: int, busy: str, *, shared: bool = False) -> None:
    """Take the advisory lock of an open file, or raise `BackendBusy` with the text."""
    end = time.monotonic() + LOCK_WAIT
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise BackendBusy(busy) from None
        time.sleep(LOCK_LOOK)
