"""Running commands: for drivers, storage providers and hooks, here or on a storage host.

A command is a list of arguments, never a line for a shell. It sees the variables that it is
given and nothing of the worker's own, leads a process group of its own, and has a time limit,
at which the whole group is terminated and then killed. However much it says, little of it is in
memory: the beginning, which is an answer, and the end, which is kept with the job without the
secrets in it.

Where a command runs is behind the protocol `Place`: here (`workers.backends.base.running.Here`),
or on another host (`workers.backends.base.ssh.Ssh`). An agent on the storage hosts would be a
third implementation; there is none, because such a host has an SSH server already.
"""

from __future__ import annotations

import shlex
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from orchestrator.domain.errors import BackendError, Problem
from workers.backends.base.call import Call
from workers.backends.base.processes import how_ended, shown

#: What every command finds in its environment.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
}
#: How much of what a command says last is kept with the job, and of all its commands.
KEPT_BYTES = 4 * 1024
_MOST_KEPT_BYTES = 32 * 1024
_KEPT_LINES = 200
#: How much of it an error says.
_LINES = 20
_CHARACTERS = 2000


class Secrets:
    """What no output may show: the words themselves, and as shells quote them in listings."""

    def __init__(self, words: Collection[str] = ()) -> None:
        quoted = ("'", "'\\''", "'\"'\"'")
        forms = {word.replace("'", quote) for word in words for quote in quoted}
        self._forms = sorted((form.encode() for form in forms if form), key=len, reverse=True)
        self._longest = len(self._forms[0]) if self._forms else 0

    def __bool__(self) -> bool:
        return bool(self._forms)

    def masked(self, text: bytes, *, cut: bool = False) -> bytes:
        """The text without secrets. ``cut``: it may begin with the end of one."""
        for form in self._forms:
            text = text.replace(form, "…".encode())
        return text[max(0, self._longest - 1) :] if cut else text

    def copy(self, source: BinaryIO, target: BinaryIO) -> None:
        """Copy a file without secrets, also those of which two pieces have a part each."""
        text = b""
        while piece := source.read(2**20):
            text = self.masked(text + piece)
            whole = max(0, len(text) - self._longest + 1)
            target.write(text[:whole])
            text = text[whole:]
        target.write(text)


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run."""

    argv: tuple[str, ...]
    #: How long it may take.
    seconds: float
    #: Variables besides `ENVIRONMENT`.
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""
    #: As much of its standard output is its answer, at most.
    answer_bytes: int = 64 * 1024
    secrets: Secrets = field(default_factory=Secrets)
    directory: Path = Path("/")
    umask: int = -1

    def __str__(self) -> str:
        """As a shell would take it, without secrets."""
        return self.secrets.masked(shlex.join(self.argv).encode()).decode(errors="replace")

    @property
    def variables(self) -> dict[str, str]:
        """All that it finds in its environment."""
        return {**ENVIRONMENT, **self.environment}


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended."""

    command: Command
    #: The host, where it is not this one.
    host: str | None
    status: int
    #: Its standard output, up to the limit, and whether that is all.
    answer: bytes
    complete: bool
    #: The end of all that it said, without secrets.
    said: bytes
    seconds: float

    def check(
        self,
        errors: Mapping[int, type[Problem]] | None = None,
        otherwise: type[Problem] = BackendError,
    ) -> Ran:
        """Itself, if it succeeded; else the error that a driver has for this status.

        A truncated answer is an error, too.
        """
        where = f" on {self.host}" if self.host else ""
        if self.status == 0 and not self.complete:
            raise otherwise(
                f"'{self.command}'{where} answered more than {self.command.answer_bytes} bytes"
            )
        if self.status != 0:
            kind = (errors or {}).get(self.status, otherwise)
            raise kind(f"'{self.command}'{where} {how_ended(self.status)}: {last_lines(self.said)}")
        return self

    def kept(self) -> dict[str, Any]:
        """What is kept of it with the job."""
        return {
            "command": str(self.command),
            **({"host": self.host} if self.host else {}),
            "status": self.status,
            "seconds": round(self.seconds, 3),
            "said": shown(self.said, lines=_KEPT_LINES, characters=KEPT_BYTES),
        }


class Kept:
    """What the commands of one attempt have said: the last of it, in bounded memory."""

    def __init__(self) -> None:
        self._kept: deque[dict[str, Any]] = deque()
        self._bytes = 0

    def add(self, ran: Ran) -> None:
        """Keep what a command has said; one that succeeded in silence needs no keeping."""
        if ran.status == 0 and not ran.said.strip():
            return
        one = ran.kept()
        self._kept.append(one)
        self._bytes += _size(one)
        while self._bytes > _MOST_KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= _size(self._kept.popleft())

    def told(self) -> list[dict[str, Any]]:
        """It, oldest first."""
        return list(self._kept)


def _size(kept: Mapping[str, Any]) -> int:
    return len(kept["command"]) + len(kept["said"])


def last_lines(said: bytes) -> str:
    """The end of what a command said, as errors have it."""
    return shown(said, lines=_LINES, characters=_CHARACTERS)


class Place(Protocol):
    """Where commands can be run."""

    def run(self, command: Command, call: Call) -> Ran:
        """Run a command and wait for its end, whatever its status is (`Ran.check`).

        What it said is kept with the job. Raises what ``call.checkpoint`` raises. Raises `Outage`
        if it was certainly not begun, because the place cannot be reached; and `TimedOut` if it
        did not end in time, or if its end is not known: it may have taken effect, or may yet.
        """
