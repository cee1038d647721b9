"""Processes that are to be killed: forked by one that has imported everything and has no threads.

``python -m tests.ontap.processes`` is that one: it is told over its standard input what its
children shall do, one after the other.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any

#: What takes long to import.
_IMPORTED = (
    "tests.ontap.scenes",
    "orchestrator.nas.edges.private",
    "workers.runner",
    "workers.serving",
    "workers.backends.memory.driver",
    "workers.backends.ontap.driver",
)

#: What a child does: its preparations up to the ``yield``, and when it is let go the rest.
Doing = Callable[..., Iterator[None]]


class Child:
    """One that has made its preparations."""

    def __init__(self, pid: int, commands: IO[bytes], answers: IO[bytes]) -> None:
        self.pid = pid
        self._commands = commands
        self._answers = answers

    def go(self) -> int:
        """Let it do the rest, and wait for its end: its exit status, negative for a signal."""
        self._commands.write(b"\n")
        self._commands.flush()
        return os.waitstatus_to_exitcode(int(self._answers.readline()))


class Forks:
    """Makes children. One at a time."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.ontap.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def child(self, doing: Doing, *arguments: Any) -> Child:
        """A child that is about to do this."""
        commands, answers = self._process.stdin, self._process.stdout
        assert commands is not None and answers is not None
        pickle.dump((doing, arguments), commands)
        commands.flush()
        return Child(int(answers.readline()), commands, answers)

    def end(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def main() -> None:
    """Fork as told, until there is nothing more to be read."""
    for name in _IMPORTED:
        importlib.import_module(name)
    commands = sys.stdin.buffer
    while True:
        try:
            doing, arguments = pickle.load(commands)
        except EOFError:
            return
        going, go = os.pipe()
        prepared, prepare = os.pipe()
        pid = os.fork()
        if pid == 0:
            steps = doing(*arguments)
            next(steps)
            os.write(prepare, b"\n")
            os.read(going, 1)
            for _ in steps:
                pass
            os._exit(0)
        os.read(prepared, 1)
        _tell(pid)
        commands.readline()
        os.write(go, b"\n")
        _tell(os.waitpid(pid, 0)[1])
        for end in (going, go, prepared, prepare):
            os.close(end)


def _tell(number: int) -> None:
    os.write(1, f"{number}\n".encode())


if __name__ == "__main__":
    main()
