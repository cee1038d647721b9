"""Running a provider's scripts: as Ganeti does, and so that none outlives its purpose.

A script gets a process group of its own. Which one is written down before the script does
anything, with the fencing number of the claim that runs it: a later claim kills what an
earlier one left running on this host, be its worker dead or frozen, before it runs anything
itself.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from orchestrator.domain.errors import (
    BackendBusy,
    Conflict,
    ScriptFailed,
    TimedOut,
)
from orchestrator.machine import boot_id
from workers.backends.base.attachments import made
from workers.backends.base.call import Call
from workers.backends.base.commands import Command, Ran, Secrets
from workers.backends.base.processes import (
    born,
    how_ended,
    is_group,
    kill,
    members,
    missing_interpreter,
    shown,
)
from workers.backends.base.running import OutputHeld, Running, start

#: How much of what a script said an error tells (Ganeti: 20 lines).
_LAST_LINES = 20
_MOST_TOLD = 4000
#: Seconds that killed processes may take to be gone.
_GONE_SECONDS = 5.0
_GONE_LOOK_SECONDS = 0.01
#: Seconds between looks for old logs.
_LOGS_SECONDS = 3600.0

#: What a shell ends with if it could not become the script.
_NOT_RUN = (126, 127)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of a script: which, for what, with which variables."""

    script: Path
    #: The id of the volume it is about; at most one of its scripts runs at a time here.
    object_id: str
    environment: Mapping[str, str]
    arguments: tuple[str, ...] = ()
    #: Its output is an answer, not a part of its log.
    answers: bool = False


class Scripts:
    """Runs the scripts of one provider for one backend, on this host.

    ``room`` is the driver's own directory; ``seconds`` the most that each script may take;
    ``secrets`` is left out of logs, and so of what errors tell.
    """

    def __init__(
        self,
        provider: str,
        room: Path,
        seconds: Mapping[str, float],
        *,
        secrets: Collection[str] = (),
    ) -> None:
        self._provider = provider
        self._logs = room / "log"
        self._running = room / "running"
        self._seconds = seconds
        self._secrets = Secrets(secrets)
        self._looked_at_logs = 0.0

    def run(self, run: Run, call: Call | None) -> bytes:
        """Run a script, wait for its end, and return its answer.

        ``call`` is None for a look that belongs to no claim. Raises `Conflict` if a later claim
        was here before, `BackendBusy` while what another has left running goes on, `TimedOut`,
        and `ScriptFailed` with what it said.
        """
        limit = self._seconds[run.script.name]
        if call is not None:
            call.checkpoint()
            limit = min(limit, max(1.0, call.seconds_left()))
        log = self._log_of(run)
        with self._written(log) as told:
            running = self._start(run, call, limit, told)
            try:
                ran = running.wait(call)
            except OutputHeld as held:
                raise ScriptFailed(
                    f"{_named(run)} has ended and left a process that holds its output open "
                    f"({held}): it was killed. What a script starts in the background must not "
                    "keep its standard output"
                ) from None
            except TimeoutError:
                raise TimedOut(
                    f"{_named(run)} did not end within {limit:g} s and was killed; "
                    f"its log: {_last_lines(running.end_of_said())}"
                ) from None
            finally:
                self._strike(running.group, run)
            told.write(ran.answer)
            self._judge(run, ran, call)
        return ran.answer

    def forget_logs(self, days: float) -> None:
        """Delete logs that are older, from time to time."""
        now = time.time()
        if now - self._looked_at_logs < _LOGS_SECONDS or not self._logs.is_dir():
            return
        self._looked_at_logs = now
        for log in self._logs.glob("*.log"):
            with suppress(FileNotFoundError):
                if now - log.stat().st_mtime > days * 86400:
                    log.unlink()

    def _log_of(self, run: Run) -> Path:
        """A log of its own for each run, named as Ganeti names them."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%d_%H_%M_%S.%f")
        return made(self._logs) / f"{run.script.name}-{self._provider}-{run.object_id}-{stamp}.log"

    @contextmanager
    def _written(self, log: Path) -> Iterator[BinaryIO]:
        """A file for what a script says, which becomes its log, without the secrets.

        Where there are any, nothing is to be seen until the script has ended. It is a file, and no
        pipe, because what a script leaves running may write to it when nobody reads any more.
        """
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with os.fdopen(os.open(log, flags, 0o600), "r+b") as file:
            if not self._secrets:
                yield file
                return
            with tempfile.TemporaryFile(dir=log.parent) as told:
                fcntl.fcntl(told, fcntl.F_SETFL, os.O_APPEND)
                try:
                    yield told
                finally:
                    told.flush()
                    told.seek(0)
                    self._secrets.copy(told, file)

    # -- one at a time --------------------------------------------------------------------

    @contextmanager
    def claimed(self, object_id: str, call: Call) -> Iterator[None]:
        """Have an object here to oneself for a moment: earlier claims are refused from now on,
        and what they run is ended."""
        with _Record(made(self._running) / object_id) as record:
            _take_over(record, call)
            record.write(call.fence, 0)
            yield

    def refuse_late(self, object_id: str, call: Call) -> None:
        """`Conflict` if a later claim has worked on an object here."""
        with _Record(made(self._running) / object_id) as record:
            _refuse_late(record, call)

    def _start(self, run: Run, call: Call | None, limit: float, log: BinaryIO) -> Running:
        command = Command(
            argv=(str(run.script), *run.arguments),
            seconds=limit,
            environment=run.environment,
            secrets=self._secrets,
            directory=run.script.parent,
            umask=0o077,
        )
        with _Record(made(self._running) / run.object_id) as record:
            fence = _take_over(record, call)
            running = start(command, log=log, answers=run.answers, gated=True)
            record.write(fence, running.group)
        return running

    def _strike(self, group: int, run: Run) -> None:
        """Note that nothing of a script is left that may go on."""
        with suppress(BackendBusy), _Record(self._running / run.object_id) as record:
            if record.group in (0, group):
                record.write(record.fence, 0)

    def _judge(self, run: Run, ran: Ran, call: Call | None) -> None:
        if ran.status == 0:
            return
        with _Record(self._running / run.object_id) as record:
            _refuse_late(record, call)  # it may have been ended by the later claim
        how = how_ended(ran.status)
        if ran.status in _NOT_RUN and (missing := missing_interpreter(run.script)):
            how = f"cannot be run: its first line names {missing}, which is not there"
        said = ran.said + self._secrets.masked(ran.answer)
        raise ScriptFailed(f"{_named(run)} {how}; its log: {_last_lines(said)}")


class _Record:
    """Who has worked on an object last, and the process group that may still do so.

    Held only while a script is started or struck; its file is read and written in one go.
    """

    _LENGTH = 256

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fence = 0
        #: The process group, if it is still there.
        self.group = 0

    def __enter__(self) -> _Record:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise BackendBusy("another worker begins with this volume just now") from None
        with suppress(ValueError):
            known = json.loads(os.pread(self._file, self._LENGTH, 0))
            self.fence = known["fence"]
            if known["boot"] == boot_id() and is_group(known["group"], known["born"]):
                self.group = known["group"]
        return self

    def write(self, fence: int, group: int) -> None:
        """Note who works on it from now on."""
        known = {"fence": fence, "group": group, "born": born(group), "boot": boot_id()}
        os.pwrite(self._file, json.dumps(known).ljust(self._LENGTH).encode(), 0)

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _refuse_late(record: _Record, call: Call | None) -> None:
    if call is not None and record.fence > call.fence:
        raise Conflict(f"a later claim than that of job {call.job_id} has worked on this volume")


def _take_over(record: _Record, call: Call | None) -> int:
    """Make sure that nobody else works on it; the fencing number to note."""
    _refuse_late(record, call)
    if record.group and (call is None or record.fence == call.fence):
        raise BackendBusy("a script of the provider runs for this volume")
    if record.group:
        _kill_group(record)
    return record.fence if call is None else call.fence


def _kill_group(record: _Record) -> None:
    """Kill what an earlier claim left. Raises `BackendBusy` if it does not go."""
    kill(record.group)
    end = time.monotonic() + _GONE_SECONDS
    while left := members(record.group):
        if time.monotonic() >= end:
            raise BackendBusy(
                f"processes {', '.join(map(str, left))} of an earlier attempt were killed and do "
                "not end: the storage they wait for does not answer"
            )
        time.sleep(_GONE_LOOK_SECONDS)


def _named(run: Run) -> str:
    return f"the provider's script {run.script}"


def _last_lines(said: bytes) -> str:
    return shown(said, lines=_LAST_LINES, characters=_MOST_TOLD)
