"""The processes of this host: which are there, what they hold open, how they ended."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path

#: What stands for a character that cannot be shown.
_UNSHOWN = "\N{REPLACEMENT CHARACTER}"


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


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
