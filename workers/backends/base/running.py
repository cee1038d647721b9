"""Commands on this host: started, watched until they end, and ended with all they have started."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Collection
from contextlib import suppress
from tempfile import TemporaryFile
from typing import BinaryIO, Protocol

from orchestrator.domain.errors import BackendError, Problem, TimedOut
from workers.backends.base.call import Call
from workers.backends.base.commands import KEPT_BYTES, Command, Ran
from workers.backends.base.processes import holding, kill

_READ_BYTES = 64 * 1024
#: Seconds between looks at whether the work must stop.
_LOOK_SECONDS = 0.5
#: Seconds that what a command has started may hold its output open after the command's end.
_LET_GO_SECONDS = 2.0
#: Seconds between the request to end and the end by force.
_GRACE_SECONDS = 2.0

#: Becomes the command once it is let go, and ends if nobody is left to do that: whoever starts it
#: can write down its process group before it does anything.
_GATE = 'read -r go && exec "$0" "$@" </dev/null'


class OutputHeld(Exception):
    """A command has ended and left a process that holds its output open; it was killed."""

    def __init__(self, holders: list[str]) -> None:
        super().__init__(", ".join(holders) or "unknown")


class Here:
    """This host."""

    def run(self, command: Command, call: Call) -> Ran:
        """Run a command (`Place.run`)."""
        try:
            return start(command).wait(call)
        except TimeoutError:
            raise TimedOut(
                f"'{command}' did not end within {command.seconds:g} s and was killed"
            ) from None
        except FileNotFoundError:
            raise BackendError(f"{command.argv[0]} is not installed on this host") from None
        except OSError as error:
            raise BackendError(f"'{command}' cannot be run: {error.strerror}") from None
        except OutputHeld as held:
            raise BackendError(
                f"'{command}' has ended and left a process that holds its output open ({held})"
            ) from None


class Watch(Protocol):
    """What waiting for a command needs of the work that it is part of."""

    def checkpoint(self) -> None:
        """Raise if the work must stop here."""

    def ran(self, ran: Ran) -> None:
        """Keep what a command said with the job."""


def start(
    command: Command, *, log: BinaryIO | None = None, answers: bool = True, gated: bool = False
) -> Running:
    """Start a command on this host. Raises `OSError`.

    ``log``: a file open for appending that what it says goes to, its standard output only
    unless it ``answers``; a pipe else. A ``gated`` command does nothing before `Running.wait`.
    """
    streams = (subprocess.PIPE, subprocess.STDOUT)
    if log is not None:
        streams = (subprocess.PIPE if answers else log.fileno(), log.fileno())
    elif answers:
        streams = (subprocess.PIPE, subprocess.PIPE)
    with TemporaryFile() as document:
        # A file: it need not be read, or not all of it.
        document.write(command.stdin)
        document.seek(0)
        process = subprocess.Popen(
            ["/bin/sh", "-c", _GATE, *command.argv] if gated else list(command.argv),
            stdin=subprocess.PIPE if gated else document,
            stdout=streams[0],
            stderr=streams[1],
            cwd=command.directory,
            env=command.variables,
            umask=command.umask,
            start_new_session=True,
        )
    return Running(process, command, log=log)


class Running:
    """A command that was started on this host, in a process group of its own."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        command: Command,
        *,
        log: BinaryIO | None = None,
        host: str | None = None,
        go: bytes = b"go\n",
    ) -> None:
        """``go``: what opens its gate, if its standard input is a pipe."""
        self.group = process.pid
        self._process = process
        self._command = command
        self._log = log
        self._host = host
        self._go = go
        self._began = time.monotonic()
        self._said = _Tail()
        # The first pipe is the answer's.
        pipes = [pipe.fileno() for pipe in (process.stdout, process.stderr) if pipe is not None]
        self._open = pipes
        self._answers = pipes[0] if process.stdout is not None else None
        self._answer = b""
        self._complete = True

    def wait(self, watch: Watch | None, *, seconds: float | None = None) -> Ran:
        """Let it run, and wait for its end. None of it is left if this raises.

        At its time limit, and where the work is stopped by a `Problem`, it is asked to end first.
        Where anything else stops it, the lease may be another's already: it is killed at once.

        Raises `TimeoutError`, `OutputHeld`, and what ``watch.checkpoint`` raises, which is called
        now and then. ``seconds``: its time limit, unless it is the command's own.
        """
        try:
            self._open_gate()
            self._watch(self._command.seconds if seconds is None else seconds, watch)
        except (TimeoutError, Problem):
            # The lease is still there: it may clean up.
            self._terminate()
            raise
        finally:
            self.stop()
            ran = Ran(
                command=self._command,
                host=self._host,
                status=self._process.returncode,
                answer=self._answer,
                complete=self._complete,
                said=self.end_of_said(),
                seconds=time.monotonic() - self._began,
            )
            if watch is not None:
                watch.ran(ran)
        return ran

    def greeted(self, greeting: bytes, seconds: float) -> bool:
        """Whether it says this before its gate is opened; what it says before that is dropped."""
        end = self._began + seconds
        while self._answers in self._open and time.monotonic() < end:
            self._read(readable(self._open, end - time.monotonic()))
            _, said, rest = self._answer.partition(greeting)
            if said:
                self._answer, self._complete = rest, True
                return True
        return False

    def stop(self) -> None:
        """Leave nothing of a command that has not ended well, and let go of its output."""
        if self._process.poll() != 0:
            kill(self.group)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _open_gate(self) -> None:
        if self._process.stdin is not None:
            with suppress(BrokenPipeError), self._process.stdin as gate:
                gate.write(self._go)

    def _terminate(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, signal.SIGTERM)
        ended = os.pidfd_open(self.group)
        try:
            readable([ended], _GRACE_SECONDS)
        finally:
            os.close(ended)

    def _watch(self, seconds: float, watch: Watch | None) -> None:
        end = self._began + seconds
        ended = os.pidfd_open(self.group)
        try:
            while ended not in (
                ready := readable([ended, *self._open], min(_LOOK_SECONDS, seconds))
            ):
                self._read(ready)
                if time.monotonic() >= end:
                    raise TimeoutError
                if watch is not None:
                    watch.checkpoint()
        finally:
            os.close(ended)
        self._process.wait()
        end = time.monotonic() + _LET_GO_SECONDS
        while self._open:
            if not (ready := readable(self._open, end - time.monotonic())):
                self._refuse_held()
            self._read(ready)

    def _refuse_held(self) -> None:
        holders = holding(os.readlink(f"/proc/self/fd/{self._open[0]}"))  # noqa: PTH115
        kill(self.group)
        for pid in holders:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise OutputHeld([f"process {pid}, {name}" for pid, name in holders.items()])

    def _read(self, ready: Collection[int]) -> None:
        for descriptor in [one for one in self._open if one in ready]:
            got = os.read(descriptor, _READ_BYTES)
            if not got:
                self._open.remove(descriptor)
            elif descriptor == self._answers:
                room = self._command.answer_bytes - len(self._answer)
                self._answer += got[:room]
                self._complete = self._complete and len(got) <= room
            if descriptor != self._answers or self._process.stderr is None:
                self._said.add(got)

    def end_of_said(self) -> bytes:
        """The end of all that it has said, without secrets."""
        if self._log is not None:
            self._log.flush()
            size = os.fstat(self._log.fileno()).st_size
            offset = max(0, size - _Tail.MOST)
            text, cut = os.pread(self._log.fileno(), _Tail.MOST, offset), offset > 0
        else:
            text, cut = self._said.text, self._said.cut
        return self._command.secrets.masked(text, cut=cut)


class _Tail:
    """The end of what is said."""

    #: More than is kept, of which some may be part of a secret.
    MOST = 4 * KEPT_BYTES

    def __init__(self) -> None:
        self.text = b""
        self.cut = False

    def add(self, got: bytes) -> None:
        whole = self.text + got
        self.cut = self.cut or len(whole) > self.MOST
        self.text = whole[-self.MOST :]


def readable(descriptors: Collection[int], seconds: float) -> list[int]:
    """Those that can be read; waits for the first, for some time."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(max(0.0, seconds) * 1000)]
