"""Runs commands in processes that are forked with the libraries they import already there.

Those imports are most of what a command costs. What is ours each command imports itself, as it
does in a process of its own.
"""

from __future__ import annotations

import atexit
import functools
import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module

_LIBRARIES = ("asyncio", "httpx", "pydantic", "typer", "typer._adapters")
_TIMEOUT = 120.0
_LONGEST = 2**20


def run_command(
    words: Sequence[str], env: Mapping[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Do as ``python -m orchestrator`` does with these words, environment and input."""
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(stdin)
        given.seek(0)
        asked = json.dumps({"words": words, "env": dict(env)}).encode()
        server = _server()
        socket.send_fds(server, [asked], [given.fileno(), out.fileno(), err.fileno()])
        try:
            status = int(server.recv(_LONGEST))
        except TimeoutError:
            raise subprocess.TimeoutExpired(list(words), _TIMEOUT) from None
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(words, status, out.read(), err.read())


@functools.cache
def _server() -> socket.socket:
    """A line to the process of this run that forks."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(_TIMEOUT)
    for end in (ours, theirs):
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, buffer, _LONGEST)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        )

    atexit.register(process.wait)
    atexit.register(ours.close)  # first
    return ours


def _serve(line: socket.socket) -> None:
    """Run one command after the other, until nobody is at the other end."""
    sys.modules["httpx._main"] = None  # type: ignore[assignment]  # as `orchestrator.cli` does
    for name in _LIBRARIES:
        import_module(name)
    gc.freeze()
    while True:
        asked, descriptors, _, _ = socket.recv_fds(line, _LONGEST, 3)
        if not asked:
            return
        if (child := os.fork()) == 0:
            _become(json.loads(asked), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        line.send(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def _become(asked: dict[str, object], descriptors: Sequence[int]) -> None:
    """Be the command in this process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.environ.clear()
    os.environ.update(asked["env"])  # type: ignore[call-overload]
    sys.argv = ["orchestrator", *asked["words"]]  # type: ignore[misc]
    status: object = 1
    try:
        from orchestrator.cli import main

        main()
    except SystemExit as ended:
        status = ended.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 1)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as line:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _serve(line)
