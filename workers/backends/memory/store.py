"""The SQLite file in RAM behind the `memory` driver, and the faults it can be told to have.

SQLite and not shared memory of our own: a worker killed in mid-change leaves the file
whole, and any process can look at it with the tools there are.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

from orchestrator import failpoints
from orchestrator.domain.errors import (
    BackendBusy,
    BackendError,
    BackendUnavailable,
    NoSpace,
    TimedOut,
    problem_for,
)
from workers.backends.memory import exports

Phase = Literal["before", "after"]
BEFORE: Phase = "before"
AFTER: Phase = "after"
Kind = Literal["fail", "slow", "hang", "crash", "unavailable", "lost reply"]

#: Memory that is there on every Linux; elsewhere the system's temporary directory serves.
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the directory made in it is private
#: How often a hanging call looks whether it was let go.
LOOK_AGAIN = 0.02
#: What the name of the file with a flag ends with.
_FLAG = "-faults"
#: Seconds that a change waits for the changes of others, which take microseconds each.
BUSY_TIMEOUT = 30.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS marker (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    identity TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS lease (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    record BLOB NOT NULL
);
-- id is null where somebody else made the volume.
CREATE TABLE IF NOT EXISTS volumes (
    n INTEGER PRIMARY KEY,
    id TEXT UNIQUE,
    name TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    metadata TEXT NOT NULL DEFAULT '{}',
    contents BLOB NOT NULL DEFAULT x'',
    restored_by INTEGER,
    fence INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS snapshots (
    n INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE,
    volume TEXT NOT NULL REFERENCES volumes (id),
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    contents BLOB NOT NULL,
    UNIQUE (volume, name)
);
-- What they take up is added up over those that have something in them: most have not.
CREATE INDEX IF NOT EXISTS filled_volumes ON volumes (length(contents)) WHERE length(contents) > 0;
CREATE INDEX IF NOT EXISTS filled_snapshots ON snapshots (length(contents))
    WHERE length(contents) > 0;
CREATE TABLE IF NOT EXISTS attachments (
    volume TEXT PRIMARY KEY REFERENCES volumes (id),
    read_only INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS removed (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    fence INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS faults (
    n INTEGER PRIMARY KEY,
    operation TEXT NOT NULL,
    pattern TEXT NOT NULL,
    kind TEXT NOT NULL,
    phase TEXT NOT NULL,
    times INTEGER,
    seconds REAL NOT NULL,
    code TEXT NOT NULL
);
"""


def place(backend: str, installation: str) -> Path:
    """The file that holds this backend of this installation."""
    base = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else Path(tempfile.gettempdir())
    # Backends' names have no dots, so the last one parts the two whatever an installation has.
    name = f"{quote(installation, safe='')}.{backend}.sqlite"
    return base / f"orchestrator-{os.getuid()}" / name


def erase(backend: str, installation: str) -> None:
    """Take all of a backend out of RAM; only once no worker uses it any more."""
    path = place(backend, installation)
    for ending in ("", "-wal", "-shm", _FLAG):
        path.with_name(path.name + ending).unlink(missing_ok=True)


class Store:
    """One backend's file. Each thread of each process has a connection of its own."""

    def __init__(self, backend: str, installation: str) -> None:
        self.path = place(backend, installation)
        self._local = threading.local()
        self._flag: mmap.mmap | None = None

    def read(self) -> sqlite3.Connection:
        """A connection for single statements that change nothing."""
        return self._opened()

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, committed unless an exception leaves the block."""
        connection = self._opened()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            failpoints.reach("driver.before_publish")
            connection.execute("COMMIT")
            failpoints.reach("driver.after_publish")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    @property
    def flag(self) -> mmap.mmap:
        """A byte that all processes share: whether any fault is set. Other calls pay for no more
        than a look at it."""
        if self._flag is None:
            self._opened()  # makes the directory
            self._flag = _shared_byte(self.path.with_name(self.path.name + _FLAG))
        return self._flag

    def suffer(
        self, operation: str, name: str, phase: Phase, pause: Callable[[float], None]
    ) -> None:
        """Do what was set for this call, outside any transaction; ``pause`` is how to be slow."""
        fault = self._take(operation, name, phase)
        if fault is None:
            return
        told = f"{operation} of {name or 'the backend'}: a fault was set"
        if fault.kind == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.kind == "slow":
            pause(fault.seconds)
        elif fault.kind == "hang":
            self._hang(fault)
        elif fault.kind == "unavailable":
            raise BackendUnavailable(told)
        elif fault.kind == "lost reply":
            raise TimedOut(told)
        else:
            raise problem_for(fault.code)(told)

    def _take(self, operation: str, name: str, phase: Phase) -> _Fault | None:
        with self.change() as db:
            row = db.execute(
                "SELECT n, kind, seconds, code, times FROM faults WHERE operation IN (?, '*') "
                "AND phase = ? AND ? GLOB pattern AND ifnull(times, 1) > 0 ORDER BY n LIMIT 1",
                (operation, phase, name),
            ).fetchone()
            if row is None:
                return None
            if row["times"] is not None:
                # A fault used up stays until cleared: whoever hangs in it is let go by that.
                db.execute("UPDATE faults SET times = times - 1 WHERE n = ?", (row["n"],))
            return _Fault(row["n"], row["kind"], row["seconds"], row["code"])

    def _hang(self, fault: _Fault) -> None:
        end = time.monotonic() + fault.seconds
        while time.monotonic() < end:
            if not self.read().execute("SELECT 1 FROM faults WHERE n = ?", (fault.n,)).fetchone():
                return
            time.sleep(LOOK_AGAIN)

    def _opened(self) -> sqlite3.Connection:
        opened: _Opened | None = getattr(self._local, "opened", None)
        if opened is None or opened.pid != os.getpid():
            if opened is not None:
                # Made before a fork: closing it here would drop the parent's file locks.
                _inherited.append(opened)
            opened = self._local.opened = _Opened(self.path)
        return opened.connection


class Faults:
    """Tells the `memory` driver of every process on this host to be slow or to fail.

    ``operation`` is a method of the driver, or ``*``; ``name_pattern`` a shell pattern for
    the volume's or snapshot's name. Kinds: ``fail`` (raises the error called ``code``),
    ``slow`` and ``hang`` (for ``seconds``; a hang looks at no checkpoint and ends when the
    faults are cleared), ``crash`` (the worker kills itself), ``unavailable``, and
    ``lost reply`` (the effect happens, then the call times out). ``when`` says on which
    side of the effect. Without ``times`` a fault stays until it is cleared.
    """

    def __init__(self, backend: str, installation: str) -> None:
        self._store = Store(backend, installation)

    def set(
        self,
        *,
        kind: Kind,
        operation: str = "*",
        name_pattern: str = "*",
        when: Phase = BEFORE,
        times: int | None = None,
        seconds: float = 3600.0,
        code: str = "backend_error",
    ) -> None:
        """Add one fault; of several that fit a call the oldest happens."""
        if kind not in get_args(Kind) or when not in get_args(Phase):
            raise ValueError(f"no such fault: {kind!r} {when!r}")
        phase = AFTER if kind == "lost reply" else when
        with self._store.change() as db:
            self._store.flag[0] = 1
            db.execute(
                "INSERT INTO faults (operation, pattern, kind, phase, times, seconds, code) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (operation, name_pattern, kind, phase, times, seconds, code),
            )

    def clear(self) -> None:
        """Remove all faults and let go whoever hangs in one."""
        with self._store.change() as db:
            db.execute("DELETE FROM faults")
            self._store.flag[0] = 0


@dataclass(frozen=True, slots=True)
class _Fault:
    n: int
    kind: str
    seconds: float
    code: str


class _Opened:
    """A connection, and the process it belongs to."""

    #: Set once opened, so that a connection that never was is not closed.
    pid = -1

    def __init__(self, path: Path) -> None:
        _make_private(path.parent)
        with translated(), _alone_in(path.parent):
            self.connection = sqlite3.connect(
                path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
            self.connection.row_factory = sqlite3.Row
            # Every page that a change touches is copied into the log.
            self.connection.execute("PRAGMA page_size = 1024")
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = OFF")
            self.connection.execute("PRAGMA foreign_keys = ON")
            self.connection.executescript(_SCHEMA + exports.SCHEMA)
        self.pid = os.getpid()

    def __del__(self) -> None:
        # Through a fork's copy it is not ours to close.
        if self.pid == os.getpid():
            self.connection.close()


_inherited: list[_Opened] = []


def _shared_byte(path: Path) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Memory that was not to be had is an error here, and a signal at the first look.
        os.posix_fallocate(descriptor, 0, 1)
        return mmap.mmap(descriptor, 1)
    finally:
        os.close(descriptor)


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    # Two that open a new file at once collide while switching its log on, without waiting.
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    # Anyone may make entries in /dev/shm: one that another user prepared is not trusted.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise BackendUnavailable(
            f"{directory} is not a directory of this user's alone: remove it, or chmod it 0700"
        )


@contextmanager
def translated() -> Iterator[None]:
    """Raise what SQLite says of its file as errors of ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        name = error.sqlite_errorname
        if name == "SQLITE_FULL":
            raise NoSpace(f"the memory for volumes is full: {error}") from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise BackendBusy(f"the memory for volumes is busy: {error}") from error
        raise BackendError(f"the memory for volumes cannot be used: {error}") from error
