"""Programs that a worker runs: watched until they end, and killed with all they have started."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

#: How much of a program's output is read.
_MOST_READ = 64 * 1024
#: Seconds between looks at whether the work must stop.
_LOOK_SECONDS = 0.5
#: Seconds that what a program has started may hold its output open after the program's end.
_LET_GO_SECONDS = 2.0
#: What stands for a character that cannot be shown.
_UNSHOWN = "\N{REPLACEMENT CHARACTER}"


class OutputHeld(Exception):
    """A program has ended and left a process that holds its output open; it was killed."""

    def __init__(self, holders: list[str]) -> None:
        super().__init__(", ".join(holders) or "unknown")


def watch(
    process: subprocess.Popen[bytes], seconds: float, checkpoint: Callable[[], None]
) -> bytes:
    """Wait for the end of a program that leads a process group; what it wrote, if that is piped.

    Raises `TimeoutError`, `OutputHeld`, and what ``checkpoint`` raises, which is called now and
    then. The program is not killed by that.
    """
    end = time.monotonic() + seconds
    output = _Output(process.stdout.fileno() if process.stdout else None)
    ended = os.pidfd_open(process.pid)
    try:
        while ended not in (ready := _ready([ended, *output.open], min(_LOOK_SECONDS, seconds))):
            if ready:
                output.read()
            if time.monotonic() >= end:
                raise TimeoutError
            checkpoint()
    finally:
        os.close(ended)
    process.wait()
    if not output.rest(_LET_GO_SECONDS):
        holders = holding(os.readlink(f"/proc/self/fd/{output.open[0]}"))  # noqa: PTH115
        kill(process.pid)
        for pid in holders:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise OutputHeld([f"process {pid}, {name}" for pid, name in holders.items()])
    return output.text


def stop(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of a program that has not ended well, and let go of its output."""
    if process.poll() != 0:
        kill(process.pid)
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def kill(group: int) -> None:
    """Kill a process group, if it is there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def born(pid: int) -> int:
    """When a process began, in ticks since the start of the system; 0 if there is none."""
    fields = _stat(pid) if pid else None
    return int(fields[19]) if fields else 0


def is_group(group: int, leader_born: int) -> bool:
    """Whether a process group is there, and not another that got its number later."""
    return bool(group) and born(group) in (0, leader_born) and bool(members(group))


def members(group: int) -> list[int]:
    """The processes of a group that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        fields = _stat(int(entry.name))
        if fields is not None and int(fields[2]) == group and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def holding(file: str) -> dict[int, str]:
    """Other processes that have a file open, by what /proc calls it; and their commands."""
    found: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        with suppress(OSError):
            if pid != os.getpid() and any(
                os.readlink(link) == file  # noqa: PTH115 - there may be very many
                for link in (entry / "fd").iterdir()
            ):
                found[pid] = (entry / "comm").read_text().strip()
    return found


def how_ended(status: int) -> str:
    """The end of a process as a sentence has it."""
    if status < 0:
        return f"was killed by signal {-status} ({signal.Signals(-status).name})"
    return f"ended with status {status}"


def missing_interpreter(program: Path) -> str | None:
    """The interpreter that a program's first line names, if it is not there."""
    with program.open("rb") as file:
        first = file.readline(256)
    words = first[2:].split() if first.startswith(b"#!") else []
    interpreter = words[0].decode(errors="replace") if words else None
    return interpreter if interpreter and not Path(interpreter).exists() else None


def shown(output: bytes, *, lines: int, characters: int) -> str:
    """The last lines of an output as text that can be shown; what is no text is replaced."""
    last = output.decode(errors="replace").splitlines()[-lines:]
    printable = ("".join(c if c.isprintable() else _UNSHOWN for c in line) for line in last)
    return "\n".join(printable)[-characters:].strip() or "nothing"


class _Output:
    """What a program writes to its standard output, up to a limit."""

    def __init__(self, descriptor: int | None) -> None:
        #: The descriptor, until the last writer has closed it.
        self.open = [] if descriptor is None else [descriptor]
        self.text = b""

    def read(self) -> None:
        """Read what there is."""
        got = os.read(self.open[0], _MOST_READ)
        self.text = (self.text + got)[:_MOST_READ]
        if not got:
            self.open = []

    def rest(self, seconds: float) -> bool:
        """Read to the end; False if somebody keeps it open for longer."""
        end = time.monotonic() + seconds
        while self.open:
            if not _ready(self.open, end - time.monotonic()):
                return False
            self.read()
        return True


def _ready(descriptors: list[int], seconds: float) -> list[int]:
    """Those that can be read; waits for the first, for some time."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(max(0.0, seconds) * 1000)]


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
