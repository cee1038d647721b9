"""Children: started, spoken to, frozen, woken, and waited for until something has happened."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.chaos import roles

#: However slow the machine is, what has not happened by then never will.
PATIENCE_SECONDS = 60.0
_LOOK_AGAIN = 0.001
#: Characters of the children's log that are told with a failure.
_END_OF_LOG = 6000


class Stuck(AssertionError):
    """Something that must happen has not happened."""


class ChildFailed(AssertionError):
    """A child told that what it was asked for has failed."""


class Nursery:
    """Forks children from a process without threads, in which the product is imported.

    ``failpoints`` is the directory in which points are armed for all of them.
    """

    def __init__(self, directory: Path) -> None:
        self.failpoints = directory / "failpoints"
        self.failpoints.mkdir()
        self.log = directory / "children.log"
        self.log.touch()
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.chaos.roles"])
        # The product reads this once, when it is imported: in the server that forks, not here.
        os.environ["ORCHESTRATOR_FAILPOINTS"] = str(self.failpoints)
        try:
            first = self._context.Process(target=_nothing)
            first.start()
            first.join()
        finally:
            del os.environ["ORCHESTRATOR_FAILPOINTS"]

    def forget(self) -> None:
        """What children have said so far is of no more interest."""
        os.truncate(self.log, 0)

    def said(self) -> str:
        """The end of what children have said since."""
        return self.log.read_text(errors="replace")[-_END_OF_LOG:]

    def start(
        self,
        role: Callable[..., None],
        *arguments: Any,
        armed: bool = False,
        switched_off: str | None = None,
    ) -> Child:
        """A new child, which may not be ready yet; failpoints act in ``armed`` ones only."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=roles.begin,
            args=(role, theirs, str(self.log), armed, switched_off, *arguments),
            daemon=True,
        )
        process.start()
        theirs.close()
        return Child(process, ours)


def _nothing() -> None:
    """The first child: by the time it ends the server stands."""


class Child:
    """One forked process and the pipe to it."""

    def __init__(self, process: Any, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    @property
    def alive(self) -> bool:
        return bool(self._process.is_alive())

    @property
    def frozen(self) -> bool:
        """Whether it was stopped by a signal and not yet woken."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] in ("T", "t")

    def ready(self) -> Child:
        """Wait until it has come up."""
        said, _ = self._hear()
        assert said == "ready", said
        return self

    def ask(self, command: str, *arguments: Any) -> None:
        """Tell it to do something, and do not wait."""
        self._pipe.send((command, arguments))

    def answer(self) -> Any:
        """What came of it. Raises `ChildFailed`, and `EOFError` if it died instead."""
        said, what = self._hear()
        if said == "failed":
            raise ChildFailed(what)
        return what

    def call(self, command: str, *arguments: Any) -> Any:
        """`ask`, then `answer`."""
        self.ask(command, *arguments)
        return self.answer()

    @property
    def answered(self) -> bool:
        """Whether it has said something, or has died."""
        return self._pipe.poll() or not self.alive

    def wake(self) -> None:
        """Let it go on after it was frozen."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.join(PATIENCE_SECONDS)
        self._pipe.close()

    def _hear(self) -> tuple[str, Any]:
        if not self._pipe.poll(PATIENCE_SECONDS):
            raise Stuck(f"a child says nothing for {PATIENCE_SECONDS:.0f} s")
        heard: tuple[str, Any] = self._pipe.recv()
        return heard


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something to become true, however slow the machine is."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        if time.monotonic() > end:
            raise Stuck(f"never happened: {what}")
        time.sleep(_LOOK_AGAIN)
    return found
