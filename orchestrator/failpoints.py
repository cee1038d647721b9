"""Failpoints: named places at which tests make a process die, freeze, wait or fail.

They are off, and cost a comparison, unless ``ORCHESTRATOR_FAILPOINTS`` names a directory when
the process starts. In that directory a test arms a point from outside, at any time, with a
file ``NAME.json``::

    {"point": "claim.after_commit", "do": "crash", "nth": 1, "times": 1,
     "where": {"action": "volume.grow"}}

``nth`` and ``times`` say at which passes it acts (all processes count together), ``where``
which facts the pass must have. When it acts, a line with the process id is added to
``NAME.fired``, so that tests can wait for it. A pause ends when ``NAME.json`` is removed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

#: The points, in the order of a job's life, and what each stands for. Those before a commit are
#: passed in its flush: all statements of the transaction have been sent, the COMMIT has not.
POINTS = {
    "api.received": "a request to submit has arrived and is valid",
    "submit.before_commit": "jobs are inserted, not committed",
    "submit.after_commit": "jobs are committed, nobody has been told",
    "wakeups.before_publish": "a wake-up is about to be sent",
    "wakeups.after_publish": "a wake-up has been sent",
    "worker.woken": "a worker has received a wake-up",
    "claim.before_commit": "jobs are claimed, not committed",
    "claim.after_commit": "jobs are claimed, nothing is done yet",
    "journal.before_commit": "an intent is written, not committed",
    "journal.after_commit": "an intent is committed, not carried out",
    "driver.before_call": "a call of the driver is about to be made",
    "driver.before_publish": "the driver has built something and is about to publish it",
    "driver.after_publish": "the driver has published what it built",
    "driver.after_call": "a call of the driver has returned",
    "lanes.before_release": "outcomes are written, lanes are still held",
    "finish.before_commit": "outcomes are written and lanes released, not committed",
    "pipeline.before_sync": "a COMMIT is sent with what was deferred, and nobody has waited for it",
    "finish.after_commit": "outcomes are committed, nobody has been told",
    "notices.before_publish": "waiters are about to be told",
    "notices.after_publish": "waiters have been told",
    "waiters.heard": "the API has heard of an end, and has not answered",
    "api.before_answer": "the answer is about to be sent",
    "lease.before_renewal": "leases are about to be renewed",
    "lease.after_renewal": "leases have been renewed",
    "due.before_commit": "jobs whose time has come are queued, not committed",
    "due.after_commit": "jobs whose time has come are queued, nobody has been told",
    "reclaim.before_commit": "jobs of silent workers are queued, not committed",
    "reclaim.after_commit": "jobs of silent workers are queued, nobody has been told",
    "relay.before_send": "lost wake-ups are known, not sent again",
    "relay.after_send": "lost wake-ups were sent again",
    "events.before_commit": "events are numbered, not committed",
    "events.after_commit": "events are numbered, readers have not been told",
}

#: What can be done at a point.
DEEDS = ("crash", "stop", "pause", "error", "drop")

_LOOK_AGAIN = 0.005

_directory: Path | None = None
if given := os.environ.get("ORCHESTRATOR_FAILPOINTS"):
    _directory = Path(given)


class FailpointError(RuntimeError):
    """What an armed point was told to raise."""


def reach(point: str, **facts: Any) -> None:
    """Pass a point outside of a transaction; within one, `Transaction.reach` does it."""
    if _directory is not None:
        _pass(_directory, point, None, facts)


def reach_within(point: str, raw: Any, passes: Iterable[Mapping[str, Any]]) -> None:
    """Pass a point in the transaction of a driver's connection, once for each of these facts."""
    if _directory is not None:
        for facts in passes:
            _pass(_directory, point, raw, facts)


@contextmanager
def around(before: str, after: str) -> Iterator[None]:
    """Pass one point, do the block, pass the other."""
    reach(before)
    yield
    reach(after)


def watched(driver: T, **facts: Any) -> T:
    """The driver itself; where points are armed, one whose calls pass them."""
    if _directory is None:
        return driver
    return _Watched(driver, facts)  # type: ignore[return-value]


class _Watched:
    """A driver whose calls pass ``driver.before_call`` and ``driver.after_call``."""

    def __init__(self, driver: Any, facts: dict[str, Any]) -> None:
        self._driver, self._facts = driver, facts

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """What the driver is: it is asked for its abilities."""
        return type(self._driver)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            reach("driver.before_call", operation=name, **self._facts)
            answer = found(*arguments, **named)
            reach("driver.after_call", operation=name, **self._facts)
            return answer

        return call


def _pass(directory: Path, point: str, raw: Any, facts: Mapping[str, Any]) -> None:
    if point not in POINTS:
        raise KeyError(f"{point!r} is not among the failpoints")
    for path in sorted(directory.glob("*.json")):
        try:
            armed = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # disarmed meanwhile, or being written
        if armed["point"] != point or any(
            facts.get(name) != value for name, value in armed.get("where", {}).items()
        ):
            continue
        passes = _append(path.with_suffix(".passes"), b".")
        first = armed.get("nth", 1)
        if first <= passes < first + armed.get("times", 1):
            _sign(path.with_suffix(".fired"), f"{os.getpid()}\n".encode())
            _act(armed["do"], point, path, raw)


def _sign(path: Path, line: bytes) -> None:
    """Add a line to a file that is never seen without one."""
    own = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    own.write_bytes(line)
    try:
        os.link(own, path)
    except FileExistsError:
        _append(path, line)
    finally:
        own.unlink()


def _append(path: Path, line: bytes) -> int:
    """Add to a file that processes share; how long it is then."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line)
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


def _act(deed: str, point: str, path: Path, raw: Any) -> None:
    match deed:
        case "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "pause":
            while path.exists():
                time.sleep(_LOOK_AGAIN)
        case "error":
            raise FailpointError(f"failpoint {point}")
        case "drop":
            _drop(point, raw)
        case _:
            raise ValueError(f"{deed!r} is none of {', '.join(DEEDS)}")


def _drop(point: str, raw: Any) -> None:
    """Cut the connection to the database, as a network does; elsewhere raise what one raises."""
    if not hasattr(raw, "pgconn"):
        raise ConnectionResetError(f"failpoint {point}")
    with socket.socket(fileno=os.dup(raw.pgconn.socket)) as line:
        line.shutdown(socket.SHUT_RDWR)
