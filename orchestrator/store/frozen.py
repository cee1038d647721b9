"""Sessions of ours whose process stands still in the middle of a transaction are ended.

A process that is frozen (SIGSTOP, a debugger, a machine that swaps) or cut off keeps what it
has locked. PostgreSQL itself ends a session that is idle in a transaction; none of its time-outs
ends one that waits for the rest of a pipeline. So whoever is alive looks.
"""

from __future__ import annotations

import random
import threading
import time
from functools import partial

import structlog
from sqlalchemy import text

from orchestrator.store.database import Database
from orchestrator.store.sessions import APPLICATION
from orchestrator.store.transaction import Transaction

log = structlog.get_logger(__name__)

#: Our own sessions, in this database and of this user, that wait for their process in a
#: transaction: for its next message; or, where they have locked something, for it to read
#: their answer. `state_change` says which wait it is: it moves with every message.
_SESSIONS = """
SELECT pid, backend_start, state_change,
       xact_start IS NOT NULL AND (
           wait_event = 'ClientRead' OR wait_event = 'ClientWrite' AND backend_xid IS NOT NULL
       ) AS waits
FROM pg_stat_activity
WHERE datname = current_database() AND usename = session_user
  AND application_name = :application AND backend_type = 'client backend'
  AND pid <> pg_backend_pid()
"""
_LOOK = text(_SESSIONS)
#: Ended only if it still is the same wait.
_END = text(
    f"SELECT pg_terminate_backend(pid) AS ended FROM ({_SESSIONS}) AS session"  # noqa: S608
    " WHERE pid = :pid AND backend_start = :backend_start AND state_change = :state_change"
    " AND waits"
)
#: So many sessions are looked at by each process every time; the more there are, the less often.
_FEW_SESSIONS = 100

#: (process id on the server, when it began, since when it waits)
_Wait = tuple[int, object, object]


class Watch:
    """Looks every so often from a thread and a connection of its own: the process's others may
    be waiting for just what such a session has locked. On SQLite it does nothing."""

    def __init__(self, url: str, *, idle_seconds: float, every: float) -> None:
        """End what waits for longer than ``idle_seconds``; look ``every`` so many seconds."""
        self._idle_seconds = idle_seconds
        self._every = every
        self._database = Database(url, pool_size=1, idle_seconds=idle_seconds)
        #: Waits, and when this process saw them first, by its own clock: how long a session has
        #: been waiting cannot be told from how long its statement took before.
        self._seen: dict[_Wait, float] = {}
        #: Sessions of ours at the last look.
        self._sessions = 0
        self._away = False
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        if self._database.is_postgresql:
            self._thread = threading.Thread(target=self._run, name="frozen", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        self._database.close()

    def _run(self) -> None:
        while not self._stopped.wait(self._pause()):
            try:
                if ended := self._look():
                    log.warning("database.frozen_sessions_ended", pids=ended)
                self._away = False
            except Exception as error:
                if not self._away:
                    log.warning("database.not_watched", error=str(error))
                self._away = True

    def _pause(self) -> float:
        """Seconds until the next look: soon after something was seen, else the more the more
        processes there are, which all look."""
        crowd = 1.0 if self._seen else max(1.0, self._sessions / _FEW_SESSIONS)
        return self._every * crowd * random.uniform(0.9, 1.1)  # noqa: S311 - spreads load

    def _look(self) -> list[int]:
        now = time.monotonic()
        self._sessions, waiting = self._database.glance(_waits)
        self._seen = {wait: self._seen.get(wait, now) for wait in waiting}
        # Each in a transaction of its own: within one, all looks would show the same.
        return [
            wait[0]
            for wait, since in self._seen.items()
            if now - since >= self._idle_seconds and self._database.glance(partial(_end, wait))
        ]


def _waits(transaction: Transaction) -> tuple[int, list[_Wait]]:
    """How many sessions there are, and those that wait."""
    found = transaction.execute(_LOOK, {"application": APPLICATION}).all()
    waits = [(row.pid, row.backend_start, row.state_change) for row in found if row.waits]
    return len(found), waits


def _end(wait: _Wait, transaction: Transaction) -> bool:
    pid, begun, changed = wait
    same = {"pid": pid, "backend_start": begun, "state_change": changed}
    return bool(transaction.execute(_END, {"application": APPLICATION, **same}).scalar())


#: Looks while a session may be waiting: so much longer it may hold up others.
_LOOKS = 4


def watching(url: str, idle_seconds: float) -> Watch:
    """A watch for a process of the product: each has one, since any of them may be frozen."""
    return Watch(url, idle_seconds=idle_seconds, every=idle_seconds / _LOOKS)
