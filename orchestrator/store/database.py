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

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from orchestrator.domain.errors import Unavailable
from orchestrator.store.asking import commit_put_off
from orchestrator.store.verdicts import (
    READ_ONLY,
    ends_only_this_session,
    ends_session,
    is_away,
    is_repeatable,
    sqlstate,
    was_not_committed,
)

T = TypeVar("T")

#: Attempts at one transaction that the database asks to repeat (deadlock, busy).
_TRIES = 6
#: Attempts at one transaction whose connection dies: pooled ones may all have died together.
_TRIES_WHEN_DYING = 3
#: Seconds a writer waits for SQLite's one write lock.
_SQLITE_BUSY = 30.0
#: What our sessions call themselves; how we know our own.
APPLICATION = "orchestrator"
#: Unless the settings say otherwise: see `orchestrator.settings.DatabaseSettings`.
IDLE_SECONDS = 20.0
#: What no transaction of ours that writes takes, however slow the machine: then PostgreSQL (17
#: and later) ends its session, whoever else is alive. Long reads say that they have no limit.
_LONGEST_TRANSACTION_SECONDS = 900
_HAS_TRANSACTION_TIMEOUT = 170000


class Database:
    """The database that a URL names. Threads share it; processes each make their own."""

    def __init__(
        self, url: str, *, pool_size: int = 10, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        """``idle_seconds``: how long a session of PostgreSQL may wait in a transaction for this
        process before it is ended."""
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
                connect_args=_line_options(idle_seconds, set(parsed.query)),
            )
            session = _session(idle_seconds)
            event.listen(self.engine, "connect", lambda raw, _: _begin_session(raw, session))
            event.listen(self.engine, "handle_error", _note_end_of_session)
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
        """A connection that sees one state of the database and changes nothing.

        It may be used for as long as one likes.
        """
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
        with self._reachable(reading=True), self.engine.connect() as connection:
            if self.is_postgresql:
                connection = connection.execution_options(
                    isolation_level=isolation, postgresql_readonly=True
                )
            yield connection
            # At a rollback, psycopg would forget every statement that it has prepared.
            connection.commit()

    @contextmanager
    def write(self, *, may_take_long: bool = False) -> Iterator[Connection]:
        """One transaction, committed at the end. SQLite's is the only one that writes.

        ``may_take_long``: as a whole database that is copied or migrated does.
        """
        with self._reachable(), self.engine.connect() as connection:
            if not self.is_postgresql:
                connection = connection.execution_options(sqlite_begin="IMMEDIATE")
            with connection.begin():
                if may_take_long and self.is_postgresql:
                    _lift_limit(connection)
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
            except (DBAPIError, Unavailable) as error:
                # A pooled connection that has died says so at its first use, and one may die
                # at any time. Nothing is repeated once a commit was sent and may have taken
                # effect.
                undone = not committing or was_not_committed(_cause(error))
                died = undone and _has_died(error)
                if not (died and attempt <= _TRIES_WHEN_DYING) and not is_repeatable(error):
                    raise
                if attempt == _TRIES:
                    raise Unavailable(
                        "the database is too busy to commit this: try again"
                    ) from error
                if not died or attempt > 1:
                    pause = random.uniform(0.005, 0.02) * 2**attempt  # noqa: S311 - not a secret
                    time.sleep(pause)
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()

    @contextmanager
    def _reachable(self, *, reading: bool = False) -> Iterator[None]:
        """Tell a database that cannot be reached from one that says no."""
        try:
            yield
        except PoolTimeout as error:
            raise Unavailable(
                "the database is too slow for the requests there are: try again"
            ) from error
        except DBAPIError as error:
            if (reading and sqlstate(error) == READ_ONLY) or not is_away(error):
                raise
            raise Unavailable(
                "the database cannot be reached or cannot write: see its log, and try again"
            ) from error


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


#: What each session of PostgreSQL begins with. All our statements find few rows among many,
#: by index. PostgreSQL keeps a plan as long as a session lasts; one made while a table was
#: empty would read it from end to end, however large it has become. And it weighs the price
#: of planning again, which is a thousand operators a table, against what a plan for the
#: values at hand would save: too little to plan statements again that take 0.03 ms.
#: A process that is frozen in a transaction lets go of what that holds after a while; none of
#: ours pauses in one. Where no time-out of the server's reaches, `orchestrator.store.frozen` does.
_SESSION = """
SET TIME ZONE 'UTC';
SET cpu_operator_cost = 0.1;
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET idle_in_transaction_session_timeout = {idle};
SET tcp_keepalives_idle = {probe};
SET tcp_keepalives_interval = {probe};
SET tcp_keepalives_count = 3;
SET tcp_user_timeout = {idle};
"""
_LIMITED = f"SET transaction_timeout = '{_LONGEST_TRANSACTION_SECONDS}s';"


def _session(idle_seconds: float) -> str:
    """The statements that a session begins with; a line that is cut is noticed in time."""
    return _SESSION.format(idle=round(idle_seconds * 1000), probe=_probe(idle_seconds))


def _probe(idle_seconds: float) -> int:
    """Seconds between looks whether a silent line still stands; three go unanswered at most."""
    return max(1, round(idle_seconds / 4))


def _begin_session(raw: Any, session: str) -> None:
    limited = _LIMITED if raw.info.server_version >= _HAS_TRANSACTION_TIMEOUT else ""
    raw.execute(session + limited)
    raw.commit()


def _line_options(idle_seconds: float, given: set[str]) -> dict[str, Any]:
    """What the driver is told about its line to PostgreSQL, but for what the URL says itself.

    On a Unix socket there is nothing to look after, and the kernel is not asked to.
    """
    probe = _probe(idle_seconds)
    wanted = {
        "connect_timeout": 5,
        "keepalives": 1,
        "keepalives_idle": probe,
        "keepalives_interval": probe,
        "keepalives_count": 3,
        "tcp_user_timeout": round(idle_seconds * 1000),
    }
    chosen = {name: value for name, value in wanted.items() if name not in given}
    return {**chosen, "application_name": APPLICATION}


def _note_end_of_session(context: ExceptionContext) -> None:
    """Let a session that is of no use go, whether or not its line is still there."""
    error = context.original_exception
    if ends_session(error):
        context.is_disconnect = True
        if ends_only_this_session(error):
            context.invalidate_pool_on_disconnect = False


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


_WITHOUT_LIMIT = "SELECT set_config('transaction_timeout', '0', true)"


def _reconnect(connection: Connection, *, again: bool = True) -> None:
    """Take a new connection if the pooled one has died; this transaction may take its time."""
    try:
        _lift_limit(connection)
    except (OperationalError, InterfaceError, InternalError) as error:
        if not error.connection_invalidated or not again:
            raise
        connection.rollback()
        _reconnect(connection, again=False)


def _lift_limit(connection: Connection) -> None:
    raw: Any = connection.connection.driver_connection
    limited = raw.info.server_version >= _HAS_TRANSACTION_TIMEOUT
    connection.exec_driver_sql(_WITHOUT_LIMIT if limited else "SELECT 1")


def _has_died(error: Exception) -> bool:
    cause = _cause(error)
    return isinstance(cause, DBAPIError) and (cause.connection_invalidated or ends_session(cause))


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ if isinstance(error, Unavailable) else error
