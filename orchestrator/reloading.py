"""SIGHUP: a process of the service reads its configuration again.

It stops in order and begins again under its own process id, so that nothing of the old
configuration is left; one with a mistake is reported, and nothing happens. A terminal that is
closed sends SIGHUP, too: a process that has one stops.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from orchestrator.domain.errors import Problem
from orchestrator.settings import Settings

log = structlog.get_logger(__name__)

#: What a process of the service answers itself; each is as it was when it begins again.
_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


def serve(read: Callable[[], Settings], run: Callable[[Settings], None]) -> None:
    """Run with the settings that ``read`` gives until SIGTERM; with new ones after each SIGHUP."""
    settings = read()
    reload = _Reload(read)
    # What 'nohup' has ignored goes on being ignored.
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, reload.hung_up)
    signal.signal(signal.SIGTERM, reload.terminated)
    run(settings)
    if reload.wanted:
        _begin_again()


def has_terminal() -> bool:
    """Whether this process belongs to a terminal, which sends SIGHUP when it is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def leave_terminal() -> None:
    """Write nothing more to a terminal that is gone: that would fail, and we stop in order."""
    for number in (1, 2):
        if os.isatty(number):
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), number)


class _Reload:
    def __init__(self, read: Callable[[], Settings]) -> None:
        self._read = read
        self._has_terminal = has_terminal()
        #: Whether the process begins again once it has stopped.
        self.wanted = False

    def hung_up(self, *_: object) -> None:
        """Look at the configuration in a thread: this one may be in the middle of anything."""
        if self._has_terminal:
            leave_terminal()
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            threading.Thread(target=self._look, name="reload", daemon=True).start()

    def terminated(self, *_: object) -> None:
        """What SIGTERM does before `run` waits for it, or after that has come to its end."""
        if self.wanted:
            _begin_again()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    def _look(self) -> None:
        try:
            self._read()
        except Problem as problem:
            log.error("reload.refused", why=problem.detail)
            return
        log.info("reload.begun")
        self.wanted = True
        os.kill(os.getpid(), signal.SIGTERM)


def _begin_again() -> None:
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - ourselves
