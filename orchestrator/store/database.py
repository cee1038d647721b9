"""Connections: one engine a process, transactions that are retried as a whole."""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from orchestrator.domain.errors import Unavailable
from orchestrator.store.asking import commit_put_off
from orchestrator.store.tables import PROMISED_ABOVE_LIMIT

T = TypeVar("T")

#: Attempts at one transaction that the database asks to repeat (deadlock, busy).
_TRIES = 6
#: SQLSTATEs that mean "the same transaction may succeed when repeated".
_REPEATABLE = {"40001", "40P01", "55P03"}
#: Classes of SQLSTATEs: connection, out of resources, operator intervention, system error.
_POSTGRESQL_AWAY = {"08", "53", "57", "58"}
#: What SQLite says when its file cannot be used.
_SQLITE_AWAY = ("unable to open", "disk I/O", "is full", "readonly", "malformed", "not a database")
#: Seconds a writer waits for SQLite's one write lock.
_SQLITE_BUSY = 30.0


class Database:
    """The database that a URL names. Threads share it; processes each make their own."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        parsed = make_url(url)
        self.url = url
        self.dialect = parsed.get_backend_name()
        if self.dialect == "sqlite":
            self.engine = _sqlite_engine(url, pool_size)
        elif self.dialect == "postgresql":
            self.engine = create_engine(
                parsed.set(drivername="postgresql+psycopg"),
                pool_size=pool_size,
                max_overflow=pool_size,
                pool_timeout=10,
                # The one used last has its statements prepared, and is warm.
                pool_use_lifo=True,
                json_serializer=_dumps,
                hide_parameters=True,  # they may hold what must be in no log
                connect_args={"connect_timeout": 5, "application_name": "orchestrator"},
            )
            event.listen(self.engine, "connect", _begin_session)
        else:
            raise ValueError(
                f"database.url names {self.dialect!r}; use sqlite:///PATH or postgresql://…"
            )

    @property
    def is_postgresql(self) -> bool:
        """Whether rows can be locked and several writers work at once."""
        return self.dialect == "postgresql"

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that sees one state of the database and changes nothing."""
        with self._reading() as connection:
            if self.is_postgresql:
                _reconnect(connection)
            yield connection

    def look(self, work: Callable[[Connection], T]) -> T:
        """Run a reading function on one state of the database; again if its connection died."""
        try:
            with self._reading() as connection:
                return work(connection)
        except Unavailable as error:
            if not _has_died(error):
                raise
        with self._reading() as connection:
            return work(connection)

    def glance(self, work: Callable[[Connection], T]) -> T:
        """The same for what does not change any more: each statement sees a state of its own.

        On PostgreSQL no transaction begins or ends for it.
        """
        if not self.is_postgresql:
            return self.look(work)
        try:
            with self._reading("AUTOCOMMIT") as connection:
                return work(connection)
        except Unavailable as error:
            if not _has_died(error):
                raise
        return self.look(work)

    @contextmanager
    def _reading(self, isolation: str = "REPEATABLE READ") -> Iterator[Connection]:
        with _reachable(), self.engine.connect() as connection:
            if self.is_postgresql:
                connection = connection.execution_options(
                    isolation_level=isolation, postgresql_readonly=True
                )
            yield connection
            # At a rollback, psycopg would forget every statement that it has prepared.
            connection.commit()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, committed at the end. SQLite's is the only one that writes."""
        with _reachable(), self.engine.connect() as connection:
            if not self.is_postgresql:
                connection = connection.execution_options(sqlite_begin="IMMEDIATE")
            with connection.begin():
                yield connection
                commit_put_off(connection)

    def transact(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in a transaction, again as a whole where the database asks for it.

        ``work`` must have no effect outside the database. Raises `Unavailable` when that
        cannot be reached.
        """
        for attempt in range(1, _TRIES + 1):
            committing = False
            try:
                with self.write() as connection:
                    done = work(connection)
                    committing = True
                return done
            except (OperationalError, IntegrityError, Unavailable) as error:
                # A pooled connection that has died says so at its first use. Nothing is
                # repeated once a commit was sent: it may have taken effect.
                stale = attempt == 1 and not committing and _has_died(error)
                if not stale and not _repeatable(error):
                    raise
                if attempt == _TRIES:
                    raise Unavailable(
                        "the database is too busy to commit this: try again"
                    ) from error
                if not stale:
                    pause = random.uniform(0.005, 0.02) * 2**attempt  # noqa: S311 - not a secret
                    time.sleep(pause)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


#: What each session of PostgreSQL begins with. All our statements find few rows among many,
#: by index. PostgreSQL keeps a plan as long as a session lasts; one made while a table was
#: empty would read it from end to end, however large it has become. And it weighs the price
#: of planning again, which is a thousand operators a table, against what a plan for the
#: values at hand would save: too little to plan statements again that take 0.03 ms.
#: A process that is frozen in a transaction lets go of what that holds after a while; none of
#: ours pauses in one.
_SESSION = """
SET TIME ZONE 'UTC';
SET cpu_operator_cost = 0.1;
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET idle_in_transaction_session_timeout = '20s';
"""


def _begin_session(raw: Any, _record: object) -> None:
    raw.execute(_SESSION)
    raw.commit()


def _sqlite_engine(url: str, pool_size: int) -> Engine:
    path = make_url(url).database
    if not path or path == ":memory:":
        raise ValueError("database.url: SQLite needs a file, since several processes share it")
    engine = create_engine(
        url,
        json_serializer=_dumps,
        hide_parameters=True,
        pool_size=pool_size,
        max_overflow=2 * pool_size,
        pool_timeout=_SQLITE_BUSY,
        connect_args={"timeout": _SQLITE_BUSY, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def configure(raw: sqlite3.Connection, _record: object) -> None:
        raw.isolation_level = None  # we say BEGIN ourselves, below
        cursor = raw.cursor()
        # Write-ahead log: readers never wait for the writer. FULL: a commit survives a
        # power cut.
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA cache_size = -65536")
        cursor.close()
        Path(path).chmod(0o600)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        kind = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {kind}")

    return engine


def _reconnect(connection: Connection) -> None:
    """Take a new connection if the pooled one has died."""
    try:
        connection.exec_driver_sql("SELECT 1")
    except (OperationalError, InterfaceError) as error:
        if not error.connection_invalidated:
            raise
        connection.rollback()


def _has_died(error: Exception) -> bool:
    cause = error.__cause__ if isinstance(error, Unavailable) else error
    return isinstance(cause, DBAPIError) and cause.connection_invalidated


def _repeatable(error: Exception) -> bool:
    if isinstance(error, IntegrityError):
        return PROMISED_ABOVE_LIMIT in str(error.orig)
    if not isinstance(error, OperationalError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    return state in _REPEATABLE or "database is locked" in str(error.orig)


@contextmanager
def _reachable() -> Iterator[None]:
    """Tell a database that cannot be reached from one that says no."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable(
            "the database is too slow for the requests there are: try again"
        ) from error
    except (OperationalError, InterfaceError) as error:
        if not _is_away(error):
            raise
        raise Unavailable(
            "the database cannot be reached or cannot write: see its log, and try again"
        ) from error


def _is_away(error: OperationalError | InterfaceError) -> bool:
    """Whether the database is out of reach, shutting down, or out of room."""
    if isinstance(error.orig, sqlite3.Error):
        return any(cause in str(error.orig) for cause in _SQLITE_AWAY)
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state[:2] in _POSTGRESQL_AWAY
